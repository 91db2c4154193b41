"use strict";
// Tables sort by a button in each heading and filter by words; a row's name shows its command; the file can be had again.

const UNITS = { ns: 1e-9, us: 1e-6, ms: 1e-3, s: 1, k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15 };

// Of "3.51 ms", "1.23k", "98%", "1.71x"; NaN of what is no number.
function number(text) {
  const found = /^([-+]?\d[\d.,]*(?:e[-+]?\d+)?)\s*(\S*)/.exec(text);
  return found ? parseFloat(found[1].replaceAll(",", "")) * (UNITS[found[2]] ?? 1) : NaN;
}

// A column whose words are mostly numbers is sorted by them, and what is none comes last.
function sort(table, heading) {
  const up = heading.getAttribute("aria-sort") !== "ascending";
  const keyed = [...table.tBodies[0].rows].map(row => {
    const text = row.cells[heading.cellIndex].textContent.trim();
    return { row, text, value: number(text) };
  });
  const words = keyed.filter(({ text }) => text && text !== "-");
  if (words.filter(({ value }) => !isNaN(value)).length > words.length / 2)
    keyed.sort((a, b) => isNaN(a.value) - isNaN(b.value) || (up ? a.value - b.value : b.value - a.value));
  else
    keyed.sort((a, b) => (up ? 1 : -1) * a.text.localeCompare(b.text, "en", { numeric: true }));
  table.tBodies[0].append(...keyed.map(({ row }) => row));
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", up ? "ascending" : "descending");
}

for (const table of document.querySelectorAll("table.sortable"))
  for (const heading of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sort(table, heading));
    heading.append(button);
  }

for (const input of document.querySelectorAll("input[data-table]")) {
  const rows = [...document.getElementById(input.dataset.table).tBodies[0].rows];
  const count = document.getElementById(input.dataset.count);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
      shown += !row.hidden;
    }
    count.textContent = `${shown} of ${rows.length} rows`;
  });
}

for (const table of document.querySelectorAll("table.rows")) {
  const command = document.getElementById(table.dataset.command);
  for (const row of table.tBodies[0].rows) {
    const button = document.createElement("button");
    button.type = "button";
    const name = row.cells[0].textContent;
    button.append(...name.split(/(?<=\/)/).flatMap(part => [part, document.createElement("wbr")]));
    row.cells[0].replaceChildren(button);
    button.addEventListener("click", () => {
      command.textContent = `bench_mla run --row '${name}' ${table.dataset.options}`.trim();
    });
  }
}

async function unpacked(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent.trim()), char => char.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

for (const button of document.querySelectorAll("button[data-packed]"))
  button.addEventListener("click", async () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([await unpacked(button.dataset.packed)], { type: "application/json" }));
    link.download = button.dataset.file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });

for (const details of document.querySelectorAll("details[data-packed]"))
  details.addEventListener("toggle", async () => {
    const view = details.querySelector("pre");
    if (details.open && !view.textContent) view.textContent = await unpacked(details.dataset.packed);
  });

document.documentElement.classList.add("scripted");
