"use strict";
// Tables sort by the column whose head is pressed, numbers by the value they were made from; modes are shown and hidden.
const valueOf = (row, column) => {
  const cell = row.cells[column];
  return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
};
const compare = (a, b) => {
  if (typeof a === "number" && typeof b === "number") return a - b;
  // Cells without a number stand last.
  if (typeof a === "number") return -1;
  if (typeof b === "number") return 1;
  return a.localeCompare(b, "en", { numeric: true });
};
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => compare(valueOf(a, column), valueOf(b, column)) * (ascending ? 1 : -1));
    table.tBodies[0].append(...rows);
  }));
}
for (const toggle of document.querySelectorAll("[data-toggle]")) {
  toggle.addEventListener("change", () => {
    for (const element of document.querySelectorAll(`[data-mode="${toggle.dataset.toggle}"]`)) {
      element.hidden = !toggle.checked;
    }
  });
}
