// Times, and where they are on the slider.

/** Steps of the slider. */
export const STEPS = 1000;
/** The slider is so much finer towards the present: a step's age grows with this power. */
const POWER = 3;

/** The time of a step, in milliseconds; null at its end, which is the present. */
export function timeOf(step, first, now) {
  if (step >= STEPS) return null;
  const age = (now - first) * (1 - step / STEPS) ** POWER;
  // The first state is of within this millisecond: there is none at its start.
  return Math.max(Math.round(now - age), first + 1);
}

/** The step nearest to a time. */
export function stepOf(ms, first, now) {
  if (ms >= now || now <= first) return STEPS;
  const age = Math.min(Math.max((now - ms) / (now - first), 0), 1);
  return Math.round(STEPS * (1 - age ** (1 / POWER)));
}

/** A time as `AT` takes it, to the millisecond. */
export const asAt = (ms) => new Date(ms).toISOString();

/** A time in the reader's own zone. */
export function local(time) {
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? String(time) : date.toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'medium' });
}

/** How long ago, in words. */
export function ago(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  for (const [name, size] of [['day', 86400], ['hour', 3600], ['minute', 60]]) {
    const count = Math.floor(seconds / size);
    if (count >= 1) return `${count} ${name}${count === 1 ? '' : 's'} ago`;
  }
  return `${seconds} second${seconds === 1 ? '' : 's'} ago`;
}

/** An element that shows a time. */
export function shownTime(el, time) {
  return el('time', { datetime: time, title: time }, local(time));
}
