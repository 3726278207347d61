// The page of the control room: asks for the state every second and draws it.
// All text that comes from the alarm or the input is inserted as text, never as markup.
"use strict";

const EVERY_MS = 1000; // between an answer and the next question
const PATIENCE_MS = 5000; // without an answer, until the page says so
const STANDS_STILL_S = 10; // without a look at the input, until the monitor has stopped
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#a0307f", "#7a6a00", "#444"]; // as in page.css
const QUIET = "#45525e", LINE = "#ccd3da", ALARM = "#c1121f";

let words = null, state = null, answered = Date.now(), language = firstLanguage();

const $ = (id) => document.getElementById(id);

function firstLanguage() {
  let kept = null;
  try { kept = localStorage.getItem("fmalign_language"); } catch { /* not allowed to keep anything */ }
  return kept ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
}

/** The words of a key in the chosen language, with {name} filled in. */
const say = (key, values = {}) =>
  words[language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);

/** Words of a name that the alarm or the monitor gives, if there are any. */
const known = (prefix, name) =>
  Object.hasOwn(words[language], prefix + name) ? words[language][prefix + name] : name;

/** An element with a class, text (never markup) and children. */
function make(tag, name, ...children) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  node.append(...children);
  return node;
}

const fixed = (value, digits = 2) => (value === null ? "–" : Number(value).toFixed(digits));
const short = (value) => (Math.abs(value) >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(4))));

function duration(seconds) {
  const all = Math.round(Math.abs(seconds));
  const [h, m, s] = [Math.floor(all / 3600), Math.floor((all % 3600) / 60), all % 60];
  if (h) return say("hours", { h, m });
  return m ? say("minutes", { m, s }) : say("seconds", { s });
}

/** What the clock of the input says now: that of its last row, and the age of that. */
const now = () => (state.row ? state.row.time_s + state.row_age_s : 0);

/** A moment as the monitor writes it: a date and time, or seconds. */
function moment(seconds) {
  if (!state.dates) return seconds.toFixed(1);
  return new Date(Math.floor(seconds) * 1000).toISOString().replace("T", " ").slice(0, 19);
}

/** The same without the date, where that is the date of the last row. */
function brief(text) {
  const today = state.row ? moment(state.row.time_s).slice(0, 11) : "";
  return state.dates && today && text.startsWith(today) ? text.slice(11) : text;
}

function draw() {
  if (words === null) return;
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const node of document.querySelectorAll("[data-word]")) node.textContent = say(node.dataset.word);
  for (const button of $("language").children) button.setAttribute("aria-pressed", String(button.value === language));
  drawState();
  if (state === null) return;
  const abnormal = known("name_", state.alarm.abnormal);
  $("heading").textContent = say("heading", { abnormal });
  $("clock").textContent = state.row ? moment(state.row.time_s) : "";
  drawVisible();
  drawHealth();
  drawHistory();
  drawCurrent();
  drawProbability();
}

/** What stands in large letters: what, its words, and more about it. */
function found() {
  const silent_s = (Date.now() - answered) / 1000;
  if (silent_s * 1000 > PATIENCE_MS) return ["doubt", say("state_lost"), say("more_lost", { age: duration(silent_s) })];
  if (state === null) return ["none", "…", ""];
  if (state.looked_age_s > STANDS_STILL_S) return ["doubt", say("state_stopped"), say("more_stopped", { age: duration(state.looked_age_s) })];
  const abnormal = known("name_", state.alarm.abnormal), health = state.health && known("health_", state.health);
  const [time, probability, , alarm] = state.reading ?? [];
  const p = fixed(probability ?? null);
  if (alarm === "ALARM" && health) return ["alarm", say("state_alarm"), say("more_alarm_doubt", { abnormal, health })];
  if (alarm === "ALARM") return ["alarm", say("state_alarm"), say("more_alarm", { abnormal, p })];
  if (health) return ["doubt", health, alarm ? say("more_doubt", { state: say("state_normal"), time: brief(time) }) : say("more_doubt_none")];
  if (alarm) return ["normal", say("state_normal"), say("more_normal", { p, level: fixed(state.alarm.raise_at) })];
  return ["none", say("state_waiting"), say("more_waiting")];
}

function drawState() {
  const [kind, word, more] = found();
  $("state").dataset.kind = kind;
  if ($("state_word").textContent !== word) $("state_word").textContent = word; // announced only when it changes
  $("state_word").className = word.length > 7 ? "long" : "";
  $("state_more").textContent = more;
  document.title = `${word} · fmalign_jax`;
}

function drawVisible() {
  const on = state.reading?.[3] === "ALARM" && state.row !== null;
  $("visible_times").replaceChildren();
  $("visible_in").textContent = on ? "" : say("no_alarm");
  if (!on) return;
  const now_s = now();
  const told = (s) => say(s >= now_s ? "in" : "ago", { time: duration(s - now_s) });
  $("visible_in").textContent = told(state.visible_s[1]);
  $("visible_times").replaceChildren(...["earliest", "middle", "latest"].map((name, i) => make("tr", name,
    make("td", "name", say(name)), make("td", "time", brief(state.reading[4 + i])), make("td", "value", told(state.visible_s[i])))));
}

function drawHealth() {
  const line = (name, value, kind = "") => make("tr", kind, make("td", "name", say(name)), make("td", "value", make("span", "", value)));
  const left = Object.entries(state.left_out).map(([kind, n]) => `${known("kind_", kind)} ${n}`);
  const health = state.health ? known("health_", state.health) : state.row ? say("health_good") : say("none");
  const rows = [
    line("health_state", health, `state${state.health || !state.row ? " doubt" : ""}`),
    line("last_row", state.row ? brief(moment(state.row.time_s)) : say("none")),
    line("row_age", state.row ? duration(state.row_age_s) : "–"),
    line("rows", state.rows.toLocaleString("en").replaceAll(",", " ")),
    line("left_out", left.length ? left.join(say("comma")) : say("none")),
  ];
  const outside = Object.entries(state.outside).map(([name, value]) => `${name} ${short(value)}`).join(say("comma"));
  if (state.health === "OUT OF RANGE" && outside) rows.splice(1, 0, line("outside", outside));
  if (state.health === "STALE CLOCK") rows.splice(1, 0, line(state.ahead_s > 0 ? "ahead" : "behind", duration(state.ahead_s)));
  $("health_table").replaceChildren(...rows);
}

function drawHistory() {
  const rows = state.events.map(([time, , , what, , visible]) => {
    const kind = what === "ALARM" ? "alarm" : what === "normal" || what === "data again" ? "normal" : "";
    const word = what === "ALARM" ? say("state_alarm") : known("event_", known("health_", what));
    return make("tr", "", make("td", "time", brief(time)), make("td", "", make("span", `tag ${kind}`, word)),
      make("td", "name", visible ? say("visible_at", { time: brief(visible) }) : ""));
  });
  $("history_table").replaceChildren(...(rows.length ? rows : [make("tr", "", make("td", "name", say("nothing")))]));
}

/** Round steps for an axis from low to high. */
function ticks(low, high, number) {
  const rough = (high - low) / number, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) found.push(i * step);
  return found;
}

/** An empty chart of the last minutes; says where a time and a value lie on it. */
function chart(id, low, high, label) {
  const canvas = $(id), scale = window.devicePixelRatio || 1, { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
  if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d"), size = Math.max(14, Math.min(22, width / 60));
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = `${size}px ${getComputedStyle(document.body).fontFamily}`;
  const y_ticks = ticks(low, high, Math.max(2, height / 60));
  const left = 14 + Math.max(...["00000", ...y_ticks.map(label)].map((text) => pen.measureText(text).width)), right = width - 1.6 * size, top = 8, bottom = height - 1.6 * size;
  const end_s = now();
  const at = {
    pen, left, right, top, bottom,
    x: (s) => right + ((s - end_s) / state.shown_s) * (right - left),
    y: (value) => bottom - ((value - low) / (high - low)) * (bottom - top),
  };
  pen.lineWidth = 1;
  pen.fillStyle = "rgba(193,18,31,.16)";
  for (const [from, to] of alarms()) pen.fillRect(Math.max(left, at.x(from)), top, at.x(to) - Math.max(left, at.x(from)), bottom - top);
  pen.fillStyle = QUIET;
  pen.strokeStyle = LINE;
  pen.textBaseline = "middle";
  pen.textAlign = "right";
  for (const y of y_ticks) {
    stroke(pen, [[left, at.y(y)], [right, at.y(y)]]);
    pen.fillText(label(y), left - 8, at.y(y));
  }
  pen.textBaseline = "bottom";
  pen.textAlign = "center";
  const minutes = state.shown_s / 60;
  for (let n = 0; n <= minutes; n += 2) pen.fillText(n ? say("minutes_axis", { n: `−${n}` }) : say("now"), at.x(end_s - 60 * n), height);
  return at;
}

function stroke(pen, points) {
  pen.beginPath();
  points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.stroke();
}

/** From when to when the alarm was on, as far as it is shown. */
function alarms() {
  const found = [];
  state.readings.forEach(([time_s, , on], i) => {
    if (!on) return;
    const before_s = state.readings[i - 1]?.[0] ?? time_s;
    if (found.length && found.at(-1)[1] === before_s) found.at(-1)[1] = time_s;
    else found.push([time_s, time_s]);
  });
  return found;
}

/** Rows [time, ...] in pieces that have no gap: none longer than three usual steps. */
function pieces(rows) {
  const steps = rows.slice(1).map((row, i) => row[0] - rows[i][0]).sort((a, b) => a - b);
  const most = 3 * (steps[Math.floor(steps.length / 2)] ?? 0);
  const found = [];
  rows.forEach((row, i) => (i && row[0] - rows[i - 1][0] <= most ? found.at(-1).push(row) : found.push([row])));
  return found;
}

function drawCurrent() {
  const { spans, alarm: { channels, unit } } = state;
  $("current_title").textContent = say("current", { unit, n: state.shown_s / 60 });
  $("current_key").replaceChildren(...channels.map((name, i) => make("span", "",
    make("span", `swatch c${i % COLOURS.length}`), `${name} ${state.row ? short(state.row.values[i]) : "–"}`)));
  const values = spans.flatMap(([, low, high]) => [...low, ...high]);
  let low = values.reduce((a, b) => Math.min(a, b), Infinity), high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  if (!values.length) [low, high] = [0, 1];
  const room = 0.05 * (high - low) || Math.abs(high) || 1;
  const { pen, x, y } = chart("current", low - room, high + room, short);
  pen.lineJoin = "round";
  const drawn = pieces(spans);
  channels.forEach((_, c) => {
    pen.strokeStyle = pen.fillStyle = COLOURS[c % COLOURS.length];
    for (const piece of drawn) {
      pen.globalAlpha = 0.25; // between the least and the greatest of each second
      pen.beginPath();
      for (const [s, , most] of piece) pen.lineTo(x(s), y(most[c]));
      for (const [s, least] of piece.toReversed()) pen.lineTo(x(s), y(least[c]));
      pen.fill();
      pen.globalAlpha = 1;
      pen.lineWidth = 1.8;
      stroke(pen, piece.map(([s, least, most]) => [x(s), y((least[c] + most[c]) / 2)]));
    }
  });
}

function drawProbability() {
  const { raise_at, clear_at } = state.alarm;
  const p = state.reading ? Number(state.reading[1]) : null;
  $("probability_title").textContent = say("probability", { n: state.shown_s / 60 });
  $("probability_key").replaceChildren(
    make("span", "", say("key_now", { p: fixed(p) })), make("span", "", say("key_raise", { p: fixed(raise_at) })), make("span", "", say("key_clear", { p: fixed(clear_at) })));
  const { pen, x, y, left, right } = chart("probability", -0.03, 1.03, (value) => value.toFixed(1));
  pen.lineWidth = 2;
  for (const [level, colour, dashes] of [[raise_at, ALARM, [10, 6]], [clear_at, "#2b7a3d", [3, 5]]]) {
    pen.setLineDash(dashes);
    pen.strokeStyle = colour;
    stroke(pen, [[left, y(level)], [right, y(level)]]);
  }
  pen.setLineDash([]);
  pen.strokeStyle = "#10181f";
  pen.lineWidth = 2.6;
  pen.lineJoin = "round";
  for (const piece of pieces(state.readings.filter(([, value]) => value !== null))) stroke(pen, piece.map(([s, value]) => [x(s), y(value)]));
}

async function ask(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(PATIENCE_MS), cache: "no-store" });
  if (answer.status === 401) location.assign("/"); // another token is needed
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

async function follow() {
  try {
    words ??= await ask("/words.json");
    state = await ask("/state.json");
    answered = Date.now();
  } catch { /* found() says so when it lasts */ }
  draw();
  setTimeout(follow, EVERY_MS);
}

for (const button of $("language").children) {
  button.addEventListener("click", () => {
    language = button.value;
    try { localStorage.setItem("fmalign_language", language); } catch { /* not allowed to keep anything */ }
    draw();
  });
}
window.addEventListener("resize", draw);
follow();
