// What is shown of one object: what it is, what became of it, its content, and the way back to a version.

import { get, post, save } from './api.js';
import { comparison } from './compare.js';
import { byId, bytes, el, mode, table } from './dom.js';
import { address, quoted, shownPath } from './place.js';
import { local, shownTime } from './time.js';

/** What an object is. */
export function facts(seen) {
  const { here } = seen;
  const fact = (name, value) => [el('dt', {}, name), el('dd', {}, value)];
  const size = here.kind === 'directory' ? `${here.size} names` : here.size < 1024 ? bytes(here.size) : `${bytes(here.size)} (${here.size} bytes)`;
  return el('dl', { class: 'facts' },
    fact('Kind', here.kind), fact('Size', size), fact('Changed', shownTime(el, here.mtime)),
    fact('Mode', `${mode(here.mode)} (${here.mode.toString(8).padStart(4, '0')})`), fact('Owner', here.user),
    here.target === undefined ? [] : fact('Leads to', here.target));
}

const SINCE = {
  gone: 'Nothing has this name there now.',
  replaced: 'Something else has this name now.',
  changed: 'It was changed since.',
  same: 'It is the same now.',
};

/** What became of it since, and the way back. */
export function sinceThen(place, seen, about) {
  const { since } = seen.here;
  if (since === undefined || place.path.length === 0) return null;
  const back = el('button', { type: 'button', id: 'restore', click: () => restore(place.path, seen.at, about) }, 'Restore this state of it');
  return el('p', { class: `since ${since}` }, SINCE[since], ' ', since === 'same' ? null : back);
}

/** The content of a file as text. */
export async function content(place, seen) {
  const heading = el('h2', {}, 'Content');
  const download = el('button', { type: 'button', click: () => save(place.path, seen.at) }, 'Download');
  const read = await get('text', { path: place.path.join('/'), at: seen.at });
  const note = (text) => el('p', { class: 'note' }, text);
  const parts = [heading, el('p', {}, download)];
  if (read.text === null) parts.push(note('Not shown: this is not text.'));
  else if (read.size === 0) parts.push(note('Empty.'));
  else parts.push(read.cut ? note(`The first 256 KiB of ${bytes(read.size)}:`) : null, el('pre', { id: 'content', tabindex: '0' }, read.text));
  return el('section', {}, parts.filter((part) => part !== null));
}

/** What became of a path: its versions, the newest first. */
export async function versions(place, about, isFile) {
  const { lines, more } = await get('history', { path: place.path.join('/') });
  const form = el('form', { id: 'versions' });
  const [newer, older] = lines.flatMap((line, n) => (isThere(line) ? [n] : []));
  const rows = lines.map((line, n) => row(line, isFile ? { n, older, newer } : null, about));
  const header = [[isFile ? 'From, to' : '', 'pick'], ['When', ''], ['What', ''], ['Size', 'number'], ['Who', ''], ['', '']];
  form.append(table('Versions', header, rows));
  if (more) form.append(el('p', { class: 'note' }, `Only the newest ${lines.length} are shown. gavel history shows all.`));
  const output = el('div', { id: 'compared', 'aria-live': 'polite' });
  if (isFile && older !== undefined) {
    form.append(el('p', {}, el('button', { type: 'submit' }, 'Compare the two')));
    form.addEventListener('submit', async (event) => {
      event.preventDefault();
      const sides = ['older', 'newer'].map((side) => lines[Number(new FormData(form).get(side) ?? NaN)]);
      await comparing(output, sides);
    });
  }
  return el('section', {}, el('h2', {}, 'Versions'), form, output);
}

/** Did it have a content behind this transaction? */
const isThere = (line) => line.size !== null && line.kind === 'file';

async function comparing(output, sides) {
  if (sides.some((side) => side === undefined)) {
    output.replaceChildren(el('p', { class: 'note' }, 'Choose two versions first: an older and a newer one.'));
    return;
  }
  const [older, newer] = sides.map((line) => ({ path: line.id.split('/'), at: line.tid, time: line.time }));
  try {
    output.replaceChildren(await comparison(older, newer));
  } catch (error) {
    output.replaceChildren(el('p', { class: 'error' }, error.message));
  }
}

/** `choice`: the row's number, and which rows are compared if nobody chooses others; null if nothing can be compared. */
function row(line, choice, about) {
  const path = line.id.split('/').filter((name) => name !== '');
  const there = line.size !== null;
  const pick = (side, title, chosen) => el('label', {},
    el('input', { type: 'radio', name: side, value: String(choice.n), checked: chosen }), el('span', { class: 'hidden' }, title));
  const when = there ? el('a', { href: address(path, line.tid) }, shownTime(el, line.time)) : shownTime(el, line.time);
  const back = () => restore(path, line.tid, about);
  return el('tr', { class: there ? null : 'gone', 'data-tid': line.tid },
    el('td', { class: 'pick' }, choice !== null && isThere(line)
      ? [pick('older', `The older one: ${line.time}`, choice.n === choice.older), pick('newer', `The newer one: ${line.time}`, choice.n === choice.newer)] : ''),
    el('td', {}, when), el('td', {}, line.words), el('td', { class: 'number' }, there ? bytes(line.size) : ''),
    el('td', {}, [line.user, line.node === null ? null : `node ${line.node}`].filter((part) => part !== null && part !== undefined).join(', ')),
    el('td', {}, there && path.length > 0 ? el('button', { type: 'button', click: back }, 'Restore') : ''));
}

/** Asks in the page, makes a path what it was, and says what was done. */
export async function restore(path, at, about) {
  const wanted = { path: path.join('/'), at };
  try {
    const would = await post('restore', { ...wanted, dry_run: true });
    const shown = shownPath(path);
    if (!(await agreed(`Restore ${shown}?`, `It is ${would.is} now, and becomes what it was as of ${local(would.time)}: ${would.was}.`, 'Restore'))) return;
    say(el('p', {}, `Restoring ${shown} …`));
    const done = await post('restore', { ...wanted, dry_run: false });
    say(result(path, done, about));
    dispatchEvent(new Event('restored'));
  } catch (error) {
    say(el('p', { class: 'error' }, error.message));
  }
}

function result(path, done, about) {
  const shown = shownPath(path);
  if (done.commits === 0) return el('p', {}, `${shown} is what it was as of ${local(done.time)} already.`);
  const where = quoted(about.mount === null ? shown : `${about.mount.replace(/\/$/, '')}/${shown}`);
  return el('div', {},
    el('p', {}, `${shown} is what it was as of ${local(done.time)}: ${done.made} made, ${done.changed} changed, ${done.removed} removed.`),
    el('p', {}, 'To take that back: ',
      el('button', { type: 'button', click: () => restore(path, done.before, about) }, 'Take it back'), ' or ',
      el('code', {}, `gavel undo --at ${done.before} ${where}`)));
}

/** Shows a message above the page, until the next one. */
export function say(...children) {
  byId('notice').replaceChildren(...children, el('button', { type: 'button', class: 'quiet', click: () => byId('notice').replaceChildren() }, 'Close'));
}

function agreed(title, text, yes) {
  byId('ask-title').textContent = title;
  byId('ask-text').textContent = text;
  byId('ask-yes').textContent = yes;
  const dialog = byId('ask');
  dialog.returnValue = 'no';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), { once: true });
  });
}
