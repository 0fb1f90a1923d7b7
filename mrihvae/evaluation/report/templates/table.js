/* ---- table of scores ---- */

function sortScores(header) {
  const descending = header.getAttribute("aria-sort") === "ascending";
  const rows = [...document.querySelectorAll("#scores tbody tr")];
  const value = (row) => row.cells[header.cellIndex].dataset.value;
  const numeric = header.classList.contains("number");
  const compare = (a, b) => (numeric ? value(a) - value(b) : value(a).localeCompare(value(b), "en", { numeric: true }));
  rows.sort((a, b) => {
    if (!value(a) || !value(b)) return !value(a) - !value(b); // blanks last, either way
    return descending ? compare(b, a) : compare(a, b);
  });
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  document.querySelector("#scores tbody").append(...rows);
}

for (const button of document.querySelectorAll("#scores thead button")) {
  button.addEventListener("click", () => sortScores(button.closest("th")));
}
