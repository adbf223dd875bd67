// The page: what the address says is shown; whatever is chosen changes the address.

import { get } from './api.js';
import { byId, bytes, el, mode, table } from './dom.js';
import { content, facts, sinceThen, versions } from './file.js';
import { address, parse, shown, shownPath } from './place.js';
import { STEPS, ago, asAt, local, shownTime, stepOf, timeOf } from './time.js';

/** Names that are shown before somebody asks for more. */
const NAMES_MAX = 5000;

const main = byId('main');
let about = { volume: 0, node: '', mount: null };
let life = { first: 0, now: 0 };
let snapshots = [];
/** Answers to what was asked before the last change of the address are dropped. */
let round = 0;

async function load() {
  const mine = (round += 1);
  const place = parse(location.hash);
  main.setAttribute('aria-busy', 'true');
  document.title = `${place.path.length === 0 ? '/' : shownPath(place.path)}${place.at === null ? '' : ` as of ${place.at}`} – Gavel console`;
  byId('at').value = place.at ?? '';
  const parts = await shownPlace(place).catch((error) => [crumbs(place), el('p', { class: 'error' }, error.message)]);
  if (mine !== round) return;
  main.replaceChildren(...parts.filter((part) => part !== null));
  main.setAttribute('aria-busy', 'false');
  main.dataset.shown = location.hash;
}

async function shownPlace(place) {
  const query = { path: place.path.join('/'), at: place.at };
  let seen;
  try {
    seen = await get('browse', query);
  } catch (error) {
    return [crumbs(place), el('p', { class: 'error' }, error.message), ...(await missing(place))];
  }
  setTime(seen, place.at);
  const parts = [crumbs(place), state(place, seen), facts(seen), sinceThen(place, seen, about)];
  if (seen.here.kind === 'directory') {
    parts.push(...(await directory(place, seen)), became(place));
  } else if (seen.here.kind === 'file') {
    const [read, told] = await Promise.all([content(place, seen), versions(place, about, true)].map((part) => part.catch(failed)));
    parts.push(told, read);
  } else {
    parts.push(await versions(place, about, false).catch(failed));
  }
  return parts;
}

const failed = (error) => el('p', { class: 'error' }, error.message);

/** What is told of a path that is not there: how it was, if it was. */
async function missing(place) {
  await setLife(place.at).catch(() => {});
  if (place.path.length === 0) return [];
  return [await versions(place, about, true).catch(() => null)];
}

function crumbs(place) {
  const steps = [['/', []], ...place.path.map((name, n) => [shown(name), place.path.slice(0, n + 1)])];
  const links = steps.map(([name, path], n) => el('li', {}, n === steps.length - 1
    ? el('span', { 'aria-current': 'page' }, name) : el('a', { href: address(path, place.at) }, name)));
  return el('nav', { 'aria-label': 'Path' }, el('ol', { class: 'crumbs' }, links));
}

function state(place, seen) {
  if (place.at === null) return null;
  const link = el('a', { href: address(place.path, null) }, 'See it now');
  return el('p', { class: 'past' }, `As of ${local(seen.time)} (${seen.at}). `, link);
}

// Directories

async function directory(place, seen) {
  const marks = byId('since').checked;
  const entries = [...seen.entries];
  let more = seen.more;
  while (more && entries.length < NAMES_MAX) {
    const page = await get('browse', { path: place.path.join('/'), at: seen.at, after: entries.at(-1).id });
    entries.push(...page.entries);
    more = page.more;
  }
  entries.sort((a, b) => (a.kind === 'directory' ? 0 : 1) - (b.kind === 'directory' ? 0 : 1) || a.name.localeCompare(b.name));
  const header = [['Name', ''], ['Size', 'number'], ['Changed', ''], ['Mode', 'wide'], ['Owner', 'wide'], ...(marks ? [['Since', '']] : [])];
  const rows = entries.map((entry) => listed(place, entry, marks));
  const parts = [];
  if (marks && place.at === null) rows.push(...(await removed(place)));
  if (rows.length === 0) parts.push(el('p', { class: 'note' }, 'Nothing is here.'));
  else parts.push(table('Names in this directory', header, rows));
  if (more) parts.push(el('p', { class: 'note' }, `More than ${NAMES_MAX} names: these are the first in the directory's own order. List it in a shell to see all.`));
  return parts;
}

const SINCE = { gone: 'gone now', replaced: 'another one now', changed: 'changed since', same: '' };

function listed(place, entry, marks) {
  const folder = entry.kind === 'directory';
  const link = el('a', { href: address([...place.path, entry.id], place.at) }, entry.name);
  const behind = folder ? '/' : entry.target === undefined ? entry.kind === 'file' ? null : ` (${entry.kind})` : ` → ${entry.target}`;
  return el('tr', { class: marks ? entry.since : null },
    el('td', { class: 'name' }, link, behind), el('td', { class: 'number' }, folder ? `${entry.size} names` : bytes(entry.size)),
    el('td', {}, shownTime(el, entry.mtime)), el('td', { class: 'wide' }, el('code', {}, mode(entry.mode))), el('td', { class: 'wide' }, entry.user),
    marks ? el('td', {}, SINCE[entry.since] ?? '') : null);
}

/** Names that were in a directory and are not any more. */
async function removed(place) {
  const { lines } = await get('removed', { path: place.path.join('/') });
  return lines.map((line) => {
    const link = el('a', { href: address([...place.path, line.id], line.last) }, shown(line.id));
    const what = line.to === undefined ? 'removed' : `renamed to ${line.to}`;
    const who = line.user === null ? '' : ` by ${line.user}`;
    return el('tr', { class: 'gone' },
      el('td', { class: 'name' }, link), el('td', { class: 'number' }, line.size === null ? '' : line.kind === 'directory' ? '' : bytes(line.size)),
      el('td', {}, shownTime(el, line.time)), el('td', { class: 'wide' }), el('td', { class: 'wide' }), el('td', {}, what + who));
  });
}

/** What became of a directory, when somebody wants to see it. */
function became(place) {
  const details = el('details', {}, el('summary', {}, 'What became of this directory'));
  details.addEventListener('toggle', async () => {
    if (details.open && details.childElementCount === 1) details.append(await versions(place, about, false).catch(failed));
  });
  return details;
}

// Time

function setTime(seen, at) {
  life = { first: seen.first_ms, now: seen.now_ms };
  const step = at === null ? STEPS : stepOf(seen.at_ms, life.first, life.now);
  byId('slider').value = String(step);
  told(at === null ? null : seen.at_ms);
  const marks = snapshots.map((line) => el('option', { value: String(stepOf(Date.parse(line.time), life.first, life.now)), label: line.name }));
  byId('marks').replaceChildren(...marks);
  const names = snapshots.map((line) => el('option', { value: line.name, selected: line.name === at }, `${line.name} (${local(line.time)})`));
  byId('snapshot').replaceChildren(el('option', { value: '' }, snapshots.length === 0 ? 'no snapshots' : 'snapshots'), ...names);
}

/** The time, when the path itself is not there to tell. */
async function setLife(at) {
  const seen = await get('browse', { path: '', at }).catch(() => get('browse', { path: '', at: null }));
  setTime(seen, at);
}

/** Says which time the slider stands for. */
function told(ms) {
  const text = ms === null ? 'now' : `${local(ms)}, ${ago(life.now - ms)}`;
  byId('shown').textContent = text;
  byId('slider').setAttribute('aria-valuetext', text);
}

function go(at) {
  const { path } = parse(location.hash);
  location.hash = address(path, at);
}

const stepTime = () => timeOf(Number(byId('slider').value), life.first, life.now);

byId('slider').addEventListener('input', () => told(stepTime()));
byId('slider').addEventListener('change', () => {
  const ms = stepTime();
  go(ms === null ? null : asAt(ms));
});
byId('time').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = byId('at').value.trim();
  go(text === '' || text === 'now' ? null : text);
});
byId('now').addEventListener('click', () => go(null));
byId('snapshot').addEventListener('change', (event) => {
  if (event.target.value !== '') go(event.target.value);
});
byId('since').addEventListener('change', load);
addEventListener('hashchange', load);
addEventListener('restored', () => {
  if (parse(location.hash).at === null) load();
  else go(null);
});

async function start() {
  try {
    [about, snapshots] = await Promise.all([get('about'), get('snapshots')]);
    byId('about').textContent = `volume ${about.volume} through node ${about.node}${about.mount === null ? '' : `, mounted at ${about.mount}`}`;
  } catch (error) {
    main.replaceChildren(el('p', { class: 'error' }, error.message));
    main.setAttribute('aria-busy', 'false');
    return;
  }
  await load();
}

start();
