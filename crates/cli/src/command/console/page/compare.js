// Two versions of a file, line by line.

import { get } from './api.js';
import { bytes, el } from './dom.js';
import { LINES_MAX, compare, lines, shortened } from './diff.js';
import { local } from './time.js';

/** Reads both versions ({path, at, time}) and gives what shows how they differ. */
export async function comparison(older, newer) {
  const [before, after] = await Promise.all([older, newer].map((side) => get('text', { path: side.path.join('/'), at: side.at })));
  const title = el('h2', {}, `From ${local(older.time)} to ${local(newer.time)}`);
  return el('section', { class: 'comparison', id: 'comparison' }, title, difference(before, after));
}

function difference(before, after) {
  const note = (text) => el('p', { class: 'note' }, text);
  if (before.text === null || after.text === null) {
    return note(`Not shown: this is not text (${bytes(before.size)} and ${bytes(after.size)}).`);
  }
  if (before.cut || after.cut) {
    return note(`Not compared: longer than the 256 KiB that this page reads (${bytes(before.size)} and ${bytes(after.size)}). gavel diff -p compares more.`);
  }
  const steps = compare(lines(before.text), lines(after.text));
  if (steps === null) return note(`Not compared: more than ${LINES_MAX} lines differ. gavel diff -p compares more.`);
  const shown = shortened(steps);
  if (shown.length === 0) return note('The same content.');
  const count = (sign) => steps.filter((step) => step.sign === sign).length;
  return el('div', {}, note(`${count('-')} lines removed, ${count('+')} added.`),
    el('div', { class: 'scroll' }, el('table', { class: 'diff' },
      el('caption', { class: 'hidden' }, 'The lines that differ'), el('tbody', {}, shown.map(row)))));
}

const NAMES = { ' ': 'kept', '-': 'removed', '+': 'added' };

function row(step) {
  if (step.left !== undefined) return el('tr', { class: 'left' }, el('td', { colspan: '4' }, `${step.left} equal lines`));
  const { sign, line } = step;
  const text = line.endsWith('\n') ? line.slice(0, -1) : line;
  const end = line.endsWith('\n') ? null : el('span', { class: 'note' }, ' (no line break at the end)');
  return el('tr', { class: NAMES[sign] },
    el('td', { class: 'number' }, step.before === null ? '' : String(step.before)),
    el('td', { class: 'number' }, step.after === null ? '' : String(step.after)),
    el('td', { class: 'sign' }, sign === ' ' ? '' : el('span', { title: NAMES[sign] }, sign)),
    el('td', { class: 'line' }, text, end));
}
