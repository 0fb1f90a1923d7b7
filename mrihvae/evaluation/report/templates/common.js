"use strict";

const { volumes, terms } = JSON.parse(document.getElementById("facts").textContent);
const SVG = document.getElementById("filters").namespaceURI;
const COLORS = 8; // of lines in the chart; then they repeat, dashed
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** Make an element; text goes in as text, whatever it holds. */
function make(tag, attributes = {}, text = null, namespace = null) {
  const element = namespace ? document.createElementNS(namespace, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== null) element.textContent = text;
  return element;
}

const makeSvg = (tag, attributes, text = null) => make(tag, attributes, text, SVG);
