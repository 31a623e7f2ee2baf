"use strict";

const page = JSON.parse(document.getElementById("data").textContent);

const byId = (id) => document.getElementById(id);

/** Make an element. Children are elements or text; text is never read as HTML. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const unique = (values) => [...new Set(values)];
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const seconds = (time) => time.toFixed(1);
const same = (names) => Object.fromEntries(names.map((name) => [name, name]));
/** Return a method's name as it is shown, marked where it is a reference. */
const named = (name) => (page.references.includes(name) ? `${name} (reference)` : name);
const namedMethods = (names) => Object.fromEntries(names.map((name) => [name, named(name)]));

/* ---------- choices ---------- */

/** Fill a select; what it offers changes only when it has to, so that the focus stays.
 *  An option is its value, or a pair of value and text. */
function offer(select, groups, chosen) {
  const offered = JSON.stringify(groups);
  if (select.dataset.offered !== offered) {
    select.dataset.offered = offered;
    select.replaceChildren(...groups.map(([label, options]) => {
      const made = options.map((option) => {
        const [value, text] = Array.isArray(option) ? option : [option, option];
        return make("option", { value }, text);
      });
      return label ? [make("optgroup", { label }, ...made)] : made;
    }).flat());
  }
  select.value = chosen;
}

/** Fill a group of radio buttons; hidden where there is nothing to choose. */
function offerRadios(group, names, chosen, choose) {
  const offered = JSON.stringify(names);
  if (group.dataset.offered !== offered) {
    const focused = group.contains(document.activeElement);
    group.dataset.offered = offered;
    group.querySelector(".chips")?.remove();
    group.append(make("div", { className: "chips" }, ...Object.entries(names).map(([value, text]) => {
      const input = make("input", { type: "radio", name: group.id, value, checked: value === chosen });
      input.addEventListener("change", () => choose(value));
      return make("label", {}, input, make("span", {}, text));
    })));
    if (focused) group.querySelector(":checked")?.focus();
  }
  group.hidden = Object.keys(names).length < 2 && !Object.values(names)[0];
  for (const input of group.querySelectorAll("input")) input.checked = input.value === chosen;
}

/* ---------- tables ---------- */

/**
 * A table that its headings sort.
 *
 * A column is {name, text, about, better, digits, same}: values are text or numbers, shown with some
 * decimals or else three digits, of which "higher" or "lower" is better and which are equal up to
 * `same`.
 * A row is {values, choose, chosen, group}: its first value is the text of its heading, which is a
 * button where there is something to choose. A value may be null. With `marks`, the best of each
 * column is marked among the rows of a group that are no reference.
 */
class SortedTable {
  constructor(id, { marks = false } = {}) {
    this.table = byId(id);
    this.marks = marks;
    this.column = null;
    this.descending = true;
    this.rows = [];
  }

  show(columns, rows) {
    this.rows = rows;
    const heads = JSON.stringify(columns);
    if (heads !== this.heads) {
      this.heads = heads;
      this.columns = columns;
      if (this.column >= columns.length) this.column = null;
      this.table.tHead.replaceChildren(make("tr", {}, ...columns.map((column, at) => this.heading(column, at))));
    }
    this.render();
  }

  heading({ name, text, about, better }, at) {
    const title = [about, better && `${better} is better`].filter(Boolean).join("; ");
    const arrow = { higher: " ↑", lower: " ↓" }[better] ?? "";
    const button = make("button", { type: "button", title }, name + arrow, make("span", { ariaHidden: "true" }));
    button.addEventListener("click", () => {
      this.descending = this.column === at ? !this.descending : !text;
      this.column = at;
      this.render();
    });
    return make("th", { scope: "col", className: text ? "text" : "" }, button);
  }

  render() {
    const { column, descending } = this;
    this.table.querySelectorAll("thead th").forEach((head, at) => {
      head.setAttribute("aria-sort", at === column ? (descending ? "descending" : "ascending") : "none");
      head.querySelector("span").textContent = at === column ? (descending ? " ▼" : " ▲") : "";
    });
    const best = this.marks ? this.findBest() : () => false;
    this.table.tBodies[0].replaceChildren(...this.sorted().map((row) => this.line(row, best)));
  }

  /** Return the rows in order; those without a value come last. */
  sorted() {
    const { column, descending } = this;
    if (column === null) return this.rows;
    const sign = descending ? -1 : 1;
    const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
    return [...this.rows].sort(({ values: { [column]: a } }, { values: { [column]: b } }) =>
      (a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b)));
  }

  /** Return whether a row has the best value of its group; where all are equal, none has. */
  findBest() {
    const limits = new Map();
    for (const { group, reference } of this.rows) {
      if (reference || limits.has(group)) continue;
      const rows = this.rows.filter((row) => row.group === group && !row.reference);
      limits.set(group, this.columns.map(({ better, same: equal = 0 }, at) => {
        const values = rows.map((row) => row.values[at]).filter((value) => value !== null);
        const [low, high] = [Math.min(...values), Math.max(...values)];
        if (!better || values.length < 2 || high - low <= equal) return () => false;
        return better === "higher" ? (value) => high - value <= equal : (value) => value - low <= equal;
      }));
    }
    return ({ group, reference, values }, at) => !reference && values[at] !== null && limits.get(group)[at](values[at]);
  }

  line(row, best) {
    const [name, ...values] = row.values;
    const button = row.choose ? make("button", { type: "button" }, name) : make("span", {}, name);
    const line = make("tr", {}, make("th", { scope: "row" }, button), ...values.map((value, place) => {
      const at = place + 1;
      if (value === null) return make("td", {}, "–");
      if (typeof value === "string") return make("td", { className: "text" }, value);
      const { digits } = this.columns[at];
      const text = digits === undefined ? Number(value.toPrecision(3)) : value.toFixed(digits);
      const cell = make("td", { title: String(value) }, String(text));
      if (best(row, at)) {
        cell.className = "best";
        cell.append(make("span", { className: "unseen" }, ", the best"));
      }
      return cell;
    }));
    if (row.chosen) line.setAttribute("aria-current", "true");
    if (row.choose) {
      line.className = "choice";
      line.addEventListener("click", () => {
        const focused = document.activeElement === button;
        row.choose();
        const lost = focused && document.activeElement === document.body;
        if (lost) this.table.querySelector("tr[aria-current] button")?.focus();
      });
    }
    return line;
  }
}

function fillGlossary(metrics) {
  byId("glossary").append(...metrics.flatMap(({ name, about, better }) => [
    make("dt", {}, name), make("dd", {}, `${about}; ${better} is better.`),
  ]));
}

byId("footer").textContent = page.footer;
byId("choices").addEventListener("submit", (event) => event.preventDefault());

