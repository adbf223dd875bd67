// Which lines of two texts differ: the longest common subsequence, by dynamic programming (Wagner and Fischer 1974), between what both have in common
// at their beginning and at their end.

/** More lines that differ than this are not compared: the table would take more than 32 MiB. */
export const LINES_MAX = 4000;

/** The lines of a text, each with its line break: put together they are the text. */
export function lines(text) {
  return text.match(/[^\n]*\n|[^\n]+$/g) ?? [];
}

/** What makes `before` into `after`: steps with a sign (' ' kept, '-' only before, '+' only after), the line, and its numbers, counted from 1, on the sides that
 * have it. Null if too many lines differ. */
export function compare(before, after) {
  let head = 0;
  while (head < before.length && head < after.length && before[head] === after[head]) head += 1;
  let tail = 0;
  const most = Math.min(before.length, after.length) - head;
  while (tail < most && before[before.length - 1 - tail] === after[after.length - 1 - tail]) tail += 1;
  const left = before.slice(head, before.length - tail);
  const right = after.slice(head, after.length - tail);
  if (left.length > LINES_MAX || right.length > LINES_MAX) return null;
  const steps = [];
  const kept = (line) => steps.push({ sign: ' ', line });
  before.slice(0, head).forEach(kept);
  steps.push(...between(left, right));
  before.slice(before.length - tail).forEach(kept);
  return numbered(steps);
}

/** Steps between lines that have neither beginning nor end in common. */
function between(left, right) {
  const width = right.length + 1;
  // common[i * width + j]: how many lines left[i..] and right[j..] have in common.
  const common = new Uint16Array((left.length + 1) * width);
  for (let i = left.length - 1; i >= 0; i -= 1) {
    for (let j = right.length - 1; j >= 0; j -= 1) {
      const at = i * width + j;
      common[at] = left[i] === right[j] ? common[at + width + 1] + 1 : Math.max(common[at + width], common[at + 1]);
    }
  }
  const steps = [];
  let i = 0;
  let j = 0;
  while (i < left.length || j < right.length) {
    if (i < left.length && j < right.length && left[i] === right[j]) {
      steps.push({ sign: ' ', line: left[i] });
      i += 1;
      j += 1;
    } else if (j >= right.length || (i < left.length && common[(i + 1) * width + j] >= common[i * width + j + 1])) {
      steps.push({ sign: '-', line: left[i] });
      i += 1;
    } else {
      steps.push({ sign: '+', line: right[j] });
      j += 1;
    }
  }
  return steps;
}

function numbered(steps) {
  let before = 0;
  let after = 0;
  for (const step of steps) {
    step.before = step.sign === '+' ? null : (before += 1);
    step.after = step.sign === '-' ? null : (after += 1);
  }
  return steps;
}

/** The steps that are shown: those that differ, with `context` kept lines around them; between them how many lines were left out. */
export function shortened(steps, context = 3) {
  const near = new Set();
  steps.forEach((step, n) => {
    if (step.sign === ' ') return;
    for (let m = Math.max(0, n - context); m <= Math.min(steps.length - 1, n + context); m += 1) near.add(m);
  });
  const shown = [];
  let left = 0;
  steps.forEach((step, n) => {
    if (!near.has(n)) {
      left += 1;
      return;
    }
    if (left > 0) shown.push({ left });
    left = 0;
    shown.push(step);
  });
  if (left > 0 && shown.length > 0) shown.push({ left });
  return shown;
}
