/* ---- raw JSON ---- */

const raw = document.getElementById("raw");

document.getElementById("copy").addEventListener("click", async () => {
  const message = document.getElementById("copied");
  try {
    await navigator.clipboard.writeText(raw.textContent);
    message.textContent = "copied";
  } catch {
    getSelection().selectAllChildren(raw); // where the browser keeps the clipboard to itself
    message.textContent = "selected; copy it with Ctrl + C";
  }
});

document.getElementById("download").addEventListener("click", (event) => {
  const address = URL.createObjectURL(new Blob([raw.textContent], { type: "application/json" }));
  make("a", { href: address, download: event.target.dataset.name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
});
