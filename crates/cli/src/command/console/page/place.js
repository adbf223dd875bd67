// Where the page is: a path and a state, as they stand in the address behind the #. Each name is percent-encoded, so that a slash or an @ in an address
// is never a part of a name.

/** The place of an address: `#/a/b@@2h`. `at` is null for the present. */
export function parse(hash) {
  const text = hash.replace(/^#/, '');
  const split = text.indexOf('@@');
  const path = (split < 0 ? text : text.slice(0, split)).split('/').filter((name) => name !== '');
  const at = split < 0 ? null : shown(text.slice(split + 2)) || null;
  return { path, at };
}

/** The address of a place. */
export function address(path, at) {
  return `#/${path.join('/')}${at === null ? '' : `@@${encodeURIComponent(at)}`}`;
}

/** A name as people read it; what of it is not UTF-8 is replaced. */
export function shown(id) {
  try {
    return decodeURIComponent(id);
  } catch {
    const bytes = id.match(/%[0-9a-f]{2}|[^%]/gi)?.map((part) => (part.length === 3 ? parseInt(part.slice(1), 16) : part.charCodeAt(0)));
    return new TextDecoder().decode(new Uint8Array(bytes ?? []));
  }
}

/** A path as people read it. */
export const shownPath = (path) => path.map(shown).join('/');

/** A path for a shell. */
export function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
