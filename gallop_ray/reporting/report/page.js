// Click on a heading: sort by that column, largest first for numbers; again: the other way round.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  const body = table.tBodies[table.tBodies.length - 1];
  headings.forEach((heading, place) => heading.querySelector("button").addEventListener("click", () => {
    const numeric = heading.classList.contains("number");
    const first = numeric ? "descending" : "ascending";
    const order = heading.getAttribute("aria-sort") === first ? (numeric ? "ascending" : "descending") : first;
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const value = (row) => row.cells[place].dataset.value;
    const compare = (one, other) => {
      const [a, b] = [value(one), value(other)];
      if (a === "" || b === "") return (a === "") - (b === "");  // what is missing comes last either way
      return sign * (numeric ? a - b : a.localeCompare(b));
    };
    body.append(...[...body.rows].sort(compare));
  }));
}
// On paper nothing is folded.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
