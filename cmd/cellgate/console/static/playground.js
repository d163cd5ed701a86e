// Explains the message by the rules while somebody types.
const form = document.getElementById("playground");
const out = document.getElementById("verdicts");
const field = (name) => form.elements.namedItem(name);
let timer = 0;
let asked = 0;

const el = (tag, cls, text) => {
  const e = document.createElement(tag);
  if (cls) e.className = cls;
  if (text !== undefined) e.textContent = text;
  return e;
};

function value(v) {
  return v.error ? `${v.part}: ${v.error}` : `${v.part} = ${JSON.stringify(v.value)}`;
}

function target(o) {
  const { sink, target: _, ...rest } = o;
  return o.error ? `${sink}: ${o.error}` : `${sink} ${JSON.stringify(rest)}`;
}

function verdict(rule) {
  const box = el("div", `verdict ${rule.stage === "error" ? "bad" : rule.matched ? "good" : ""}`);
  const head = el("p");
  head.append(el("b", "", rule.id), ` ${rule.matched ? "matches" : `stops at ${rule.stage}`}`);
  box.append(head);
  if (rule.reason) box.append(el("p", "faint", rule.reason));
  const list = el("ul");
  for (const v of rule.values ?? []) list.append(el("li", "mono", value(v)));
  for (const o of rule.outputs ?? []) list.append(el("li", "mono", `→ ${target(o)}`));
  if (list.children.length) box.append(list);
  return box;
}

function finding(f) {
  const box = el("div", `verdict ${f.level === "warning" ? "warn" : "bad"}`);
  const head = el("p");
  head.append(el("b", "", `${f.file}:${f.line}:${f.column}`), ` ${f.level}[${f.code}] ${f.rule}: ${f.message}`);
  box.append(head);
  if (f.source) box.append(el("pre", "", `${f.source}\n${" ".repeat(Math.max(0, f.column - 1))}^`));
  if (f.suggestion) box.append(el("p", "faint", f.suggestion));
  return box;
}

async function explain() {
  const mine = ++asked;
  out.setAttribute("aria-busy", "true");
  let answer;
  try {
    const body = { topic: field("topic").value, payload: field("payload").value, file: field("file").value, text: field("text").value };
    const r = await fetch("/playground/explain", { method: "POST", headers: { "Content-Type": "application/json", "X-CSRF": field("csrf").value }, body: JSON.stringify(body) });
    if (r.status === 401) return location.reload();
    answer = r.ok ? await r.json() : { error: await r.text() };
  } catch {
    answer = { error: "The gateway does not answer." };
  }
  if (mine !== asked) return;
  out.setAttribute("aria-busy", "false");
  const parts = [];
  if (answer.error) {
    const all = answer.findings ?? [];
    if (all.length) parts.push(...all.map(finding));
    else parts.push(el("div", "verdict bad", answer.error));
  } else {
    const rules = [...(answer.rules ?? [])].sort((a, b) => Number(b.matched) - Number(a.matched));
    parts.push(...rules.map(verdict));
    parts.push(el("p", "faint", answer.others === 1 ? "1 other rule is not looked at: its topics do not match." : `${answer.others} other rules are not looked at: their topics do not match.`));
  }
  out.replaceChildren(...parts);
}

form.addEventListener("input", (e) => {
  if (e.target.name === "file") return;
  clearTimeout(timer);
  timer = setTimeout(explain, 300);
});
field("file").addEventListener("change", (e) => (location.href = `/playground?file=${encodeURIComponent(e.target.value)}`));
explain();
