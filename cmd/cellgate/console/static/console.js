// What moves on every page: the part with the id "live" is loaded anew, in intervals (data-refresh of the body) and when a
// stream of events says that something has happened (data-stream). A page that nobody looks at does neither.

const live = () => document.getElementById("live");
let loading = false;
let again = 0;

/** Loads the live part of this page anew. What somebody is typing in is left alone. */
export async function refresh() {
  const old = live();
  if (!old || loading || document.hidden || busy(old)) return;
  loading = true;
  try {
    const answer = await fetch(location.href, { headers: { "X-Refresh": "1" } });
    if (answer.status === 401) return location.reload();
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const now = page.getElementById("live");
    if (now && !busy(old)) swap(old, now);
  } catch {
    // The gateway does not answer: the next time it may.
  } finally {
    loading = false;
  }
}

// A button that is pressed must not be replaced before it is let go, nor a field that somebody types in.
let pressed = false;
for (const [kind, is] of [["pointerdown", true], ["pointerup", false], ["pointercancel", false]]) {
  document.addEventListener(kind, () => (pressed = is), { capture: true });
}
document.addEventListener("submit", () => (leaving = true));
let leaving = false;

const busy = (el) => pressed || leaving || (el.contains(document.activeElement) && /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName));

// swap keeps what has the focus, and how far tables are scrolled.
function swap(old, now) {
  const focus = [...old.querySelectorAll("a, button, [tabindex]")].indexOf(document.activeElement);
  const scrolled = [...old.querySelectorAll(".scroll")].map((el) => el.scrollLeft);
  old.replaceChildren(...now.childNodes);
  old.querySelectorAll(".scroll").forEach((el, i) => (el.scrollLeft = scrolled[i] ?? 0));
  if (focus >= 0) old.querySelectorAll("a, button, [tabindex]")[focus]?.focus();
}

/** Calls fn at most once in a while, and once more for what came meanwhile. */
export function calmly(fn, pause) {
  let timer = 0;
  return () => {
    if (!timer) timer = setTimeout(() => ((timer = 0), fn()), pause);
  };
}

/** Opens a stream of events. It is closed while nobody looks, and opened again when the gateway ends it. */
export function follow(url, kinds, fn) {
  let source = null;
  const open = () => {
    source = new EventSource(url);
    for (const kind of kinds) source.addEventListener(kind, (e) => fn(kind, JSON.parse(e.data)));
    source.addEventListener("end", (e) => {
      fn("end", JSON.parse(e.data));
      source.close();
      source = null;
    });
    source.onerror = () => fn("error", { closed: source?.readyState === EventSource.CLOSED });
  };
  const look = () => {
    if (document.hidden && source) {
      source.close();
      source = null;
    } else if (!document.hidden && !source) open();
  };
  document.addEventListener("visibilitychange", look);
  look();
  return () => {
    document.removeEventListener("visibilitychange", look);
    source?.close();
    source = null;
  };
}

const every = Number(document.body.dataset.refresh || 0);
if (every) again = setInterval(refresh, every * 1000);
document.addEventListener("visibilitychange", () => again && refresh());

const stream = live()?.dataset.stream;
if (stream) follow(stream, ["ledger", "presence", "command"], calmly(refresh, 500));

document.addEventListener("submit", (e) => {
  const question = e.submitter?.dataset.confirm;
  if (question && !confirm(question)) {
    e.preventDefault();
    leaving = false;
  }
});
