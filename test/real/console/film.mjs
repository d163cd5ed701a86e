// What somebody new does with the console of a running `cellgate dev`, in a real browser. Each page is clicked through and held
// by axe-core; what the browser's console reports as an error is one. It is called by console_test.go.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const { MODULES, URL: base, PROMETHEUS: prometheus, TOKEN: token, READER: reader, SHOTS: shots } = process.env;
const require = createRequire(`${MODULES}/`);
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const failures = [];
const patience = 120_000;

const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });

async function visitor({ scheme = "light", width = 1280, height = 800 } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme, bypassCSP: false });
  const page = await context.newPage();
  page.setDefaultTimeout(patience);
  page.on("console", (m) => m.type() === "error" && !page.expected?.test(m.text()) && failures.push(`${page.url()}: console: ${m.text()}`));
  page.on("pageerror", (e) => failures.push(`${page.url()}: ${e.message}`));
  page.on("request", (r) => r.url().startsWith(base) || failures.push(`${page.url()}: fetches ${r.url()}`));
  page.on("dialog", (d) => d.accept());
  return page;
}

async function login(page, with_) {
  await page.goto(`${base}/login`);
  await page.fill("#token", with_);
  await page.click("main button[type=submit]");
}

// audit holds a page by axe-core, which runs in a world of its own: the page's policy lets no other script in.
async function audit(page, what) {
  const session = await page.context().newCDPSession(page);
  const { frameTree } = await session.send("Page.getFrameTree");
  const { executionContextId: contextId } = await session.send("Page.createIsolatedWorld", { frameId: frameTree.frame.id });
  await session.send("Runtime.evaluate", { expression: axe, contextId });
  const { result } = await session.send("Runtime.evaluate", { expression: "axe.run().then((r) => JSON.stringify(r.violations))", contextId, awaitPromise: true, returnByValue: true });
  for (const v of JSON.parse(result.value)) failures.push(`${what}: axe: ${v.id}: ${v.nodes.map((n) => n.target.join(" ")).slice(0, 3)}`);
  await session.detach();
  const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  if (over > 0) failures.push(`${what}: it is ${over} pixels wider than the screen`);
}

const looks = [
  { name: "light", width: 1120, height: 700 },
  { name: "dark", scheme: "dark", width: 1120, height: 700 },
  { name: "phone", width: 390, height: 780 },
  { name: "phone-dark", scheme: "dark", width: 390, height: 780 },
];

async function tour(paths) {
  for (const look of looks) {
    const page = await visitor(look);
    await page.goto(`${base}/login`);
    await audit(page, `login, ${look.name}`);
    if (shots) await page.screenshot({ path: `${shots}/login-${look.name}.png` });
    await login(page, token);
    for (const [name, path] of Object.entries(paths)) {
      await page.goto(base + path);
      if (name === "playground") await page.waitForSelector("#verdicts .verdict");
      if (name === "vehicle") await page.waitForSelector("#messages li");
      if (name === "trace") await page.waitForSelector("#steps li li:nth-child(4)");
      await audit(page, `${name}, ${look.name}`);
      if (shots) await page.screenshot({ path: `${shots}/${name}-${look.name}.png` });
    }
    await page.context().close();
  }
}

async function film() {
  const page = await visitor();
  page.expected = /401|403/;
  await page.goto(base);
  await login(page, "no.such.token");
  await page.getByText("The token is not accepted").waitFor();
  await login(page, token);
  await page.getByRole("heading", { name: /^Cell / }).waitFor();
  for (const name of ["Ledger", "Vehicles", "Commands", "Rules", "Playground", "Trace", "Cell"]) {
    await page.getByRole("navigation").getByRole("link", { name, exact: true }).click();
    await page.locator("nav [aria-current]", { hasText: name }).waitFor();
  }

  // The fleet moves: messages of a vehicle come by themselves.
  await page.goto(`${base}/vehicles?vin=ltest`);
  const vehicle = await page.locator("tbody a").first().getAttribute("href");
  await page.goto(base + vehicle);
  await page.locator("#messages li").nth(1).waitFor();

  // A command goes there and back, without a reload.
  await page.fill("#name", "unlock");
  await page.getByRole("button", { name: "Send" }).click();
  await page.getByText(/^Command unlock/).waitFor();
  await page.locator("tbody .state.good", { hasText: "succeeded" }).first().waitFor();
  await page.locator("tbody th a").first().click();
  await page.getByRole("heading", { name: "Command unlock" }).waitFor();
  const command = new URL(page.url()).pathname;
  await audit(page, "command");

  // A rule is broken in the playground, and mended: nothing happens to those in force.
  await page.goto(`${base}/playground`);
  await page.locator("#verdicts .verdict.good").first().waitFor();
  const text = await page.inputValue("#text");
  await page.fill("#text", text.replace("payload.soc < 15", "payload.soc <"));
  await page.locator("#verdicts .verdict.bad pre").waitFor();
  await page.fill("#text", text.replace("payload.soc < 15", "payload.soc < 16"));
  await page.locator("#verdicts .verdict.good", { hasText: "low-battery" }).waitFor();
  await page.getByRole("button", { name: "Put in force" }).click();
  await page.getByText(/^In force, until/).waitFor();
  await page.getByRole("link", { name: "History" }).click();
  await page.locator("tbody a").nth(1).click();
  await page.locator(".diff ins", { hasText: "payload.soc < 15" }).waitFor();
  const ran = new URL(page.url()).pathname;
  await page.getByRole("button", { name: "Roll back to it" }).click();
  await page.getByText(/^Rolled back/).waitFor();

  await page.getByRole("button", { name: "Reload the files" }).click(); // or the cell is degraded: the files are not in force
  await page.getByText("The rule files are in force").waitFor();

  // Kafka stops: the lag grows, the page says what is degraded, and the alarm fires; it starts, what waited is delivered, and the
  // alarm ends.
  if (await firing("CellgateSinkLags")) throw new Error("CellgateSinkLags fires before there is a cause");
  await page.goto(base);
  await page.getByRole("button", { name: "Stop kafka" }).click();
  await page.getByText("kafka is stopped").waitFor();
  await page.locator(".reasons dt", { hasText: "kafka" }).waitFor();
  const lag = () => page.locator("tr", { has: page.locator("th", { hasText: /^kafka$/ }) }).locator("td").first().innerText();
  await until("the lag grows", async () => Number((await lag()).replaceAll(",", "")) > 20);
  await audit(page, "cell, degraded");
  if (shots) await page.screenshot({ path: `${shots}/degraded-light.png` });
  await until("the alarm fires", () => firing("CellgateSinkLags"));
  await page.getByRole("button", { name: "Start kafka" }).click();
  await page.locator(".notice").waitFor();
  const notice = await page.locator(".notice").innerText();
  if (!/^kafka (runs again|is stopped)/.test(notice)) throw new Error(`kafka does not start: ${notice}`);
  await page.getByText("kafka runs again").waitFor();
  await page.locator(".state", { hasText: "all is well" }).waitFor();
  await until("the lag is gone", async () => Number((await lag()).replaceAll(",", "")) < 20);
  await until("the alarm ends", async () => !(await firing("CellgateSinkLags")));
  await page.getByRole("link", { name: "Ledger" }).click();
  if ((await page.locator("tbody .state.bad").count()) > 0) failures.push("a line of the ledger does not add up");

  // Who may only read is offered nothing else.
  const guest = await visitor();
  guest.expected = /403/;
  await login(guest, reader);
  await guest.getByText("read-only").waitFor();
  await guest.goto(base + vehicle);
  if ((await guest.getByRole("button", { name: /Send|Disconnect/ }).count()) > 0) failures.push("a reader is offered to send or disconnect");
  await guest.goto(`${base}/playground`);
  await guest.getByText("Not permitted").waitFor();
  await guest.context().close();

  await page.getByRole("button", { name: "Log out" }).click();
  await page.getByText("You have logged out").waitFor();
  await page.context().close();
  return { cell: "/", ledger: "/ledger", vehicles: "/vehicles", vehicle, commands: "/commands", command, rules: "/rules", history: "/rules/history", ran, playground: "/playground", trace: `/trace?vin=${vehicle.split("/").pop()}` };
}

// firing tells whether an alarm fires in Prometheus.
async function firing(name) {
  const answer = await (await fetch(`${prometheus}/api/v1/alerts`)).json();
  return answer.data.alerts.some((a) => a.labels.alertname === name && a.state === "firing");
}

async function until(what, holds) {
  for (const end = Date.now() + patience; !(await holds()); ) {
    if (Date.now() > end) throw new Error(`${what}: not within ${patience} ms`);
    await new Promise((done) => setTimeout(done, 200));
  }
}

try {
  await tour(await film());
} catch (e) {
  failures.push(String(e.stack ?? e));
} finally {
  await browser.close();
}
if (failures.length) {
  console.error(failures.join("\n"));
  process.exit(1);
}
