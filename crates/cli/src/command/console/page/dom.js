// Elements of the page. Whatever comes from the volume becomes text, never markup.

/** Makes an element. Attributes whose value is null or false are left out; functions are listeners; texts among the children become text nodes. */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === 'function') element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

export const byId = (id) => document.getElementById(id);

/** A table; cells are texts or elements. */
export function table(caption, header, rows) {
  return el('div', { class: 'scroll' }, el('table', {},
    el('caption', { class: 'hidden' }, caption),
    el('thead', {}, el('tr', {}, header.map(([title, kind]) => el('th', { scope: 'col', class: kind }, title)))),
    el('tbody', {}, rows)));
}

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];

/** A number of bytes as people read it. */
export function bytes(count) {
  let unit = 0;
  let shown = count;
  while (shown >= 1024 && unit < UNITS.length - 1) {
    shown /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? shown : shown.toFixed(1)} ${UNITS[unit]}`;
}

/** Permissions as `ls` shows them. */
export function mode(bits) {
  const triple = (at) => ['r', 'w', 'x'].map((letter, n) => (bits >> (at + 2 - n)) & 1 ? letter : '-');
  const letters = [...triple(6), ...triple(3), ...triple(0)];
  for (const [bit, place, set, alone] of [[0o4000, 2, 's', 'S'], [0o2000, 5, 's', 'S'], [0o1000, 8, 't', 'T']]) {
    if (bits & bit) letters[place] = letters[place] === 'x' ? set : alone;
  }
  return letters.join('');
}
