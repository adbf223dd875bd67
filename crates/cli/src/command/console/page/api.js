// What the page asks the server. The key comes once with the address and is kept for this server alone.

const KEY = 'gavel-console-key';

const given = new URLSearchParams(location.search).get('key');
if (given !== null) {
  localStorage.setItem(KEY, given);
  // Neither the history nor a bookmark is to have it.
  history.replaceState(null, '', `/${location.hash}`);
}
const key = localStorage.getItem(KEY) ?? '';

async function answer(response) {
  const text = await response.text();
  let told;
  try {
    told = JSON.parse(text);
  } catch {
    throw new Error(text || `status ${response.status}`);
  }
  if (!response.ok) throw new Error(told.error ?? `status ${response.status}`);
  return told;
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error('gavel console does not answer: is it still running?');
  }
  return answer(response);
}

/** Asks a question. Values that are null are left out. */
export function get(question, values = {}) {
  const query = new URLSearchParams(Object.entries(values).filter(([, value]) => value !== null));
  return ask(`/api/${question}?${query}`, { headers: { 'x-gavel-key': key } });
}

/** Has something done. */
export function post(what, body) {
  const headers = { 'x-gavel-key': key, 'content-type': 'application/json' };
  return ask(`/api/${what}`, { method: 'POST', headers, body: JSON.stringify(body) });
}

/** Has the browser save a file. */
export function save(path, at) {
  const form = document.createElement('form');
  form.method = 'post';
  form.action = '/download';
  form.hidden = true;
  for (const [name, value] of Object.entries({ key, path: path.join('/'), at })) {
    const field = document.createElement('input');
    field.type = 'hidden';
    field.name = name;
    field.value = value;
    form.append(field);
  }
  document.body.append(form);
  form.submit();
  form.remove();
}
