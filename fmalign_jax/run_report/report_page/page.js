// What all parts of the page share: data, words, numbers, colours.

const parsed = (id) => JSON.parse(document.getElementById(id).textContent);
const DATA = parsed("data");
const WORDS = parsed("words");
let language = "en";

const $ = (id) => document.getElementById(id);

/** Whether labels shaped the features of the run: its results are then not zero-shot. */
const LABELLED = (DATA.evaluation?.labels ?? "L0") !== "L0";
const SCORES = LABELLED ? DATA.evaluation.supervised_representation : DATA.evaluation?.zero_shot;

/** The words of a key in the chosen language, with {name} filled in. */
function say(key, values = {}) {
  const words = WORDS[language];
  return ((LABELLED && words[key + "_labelled"]) || words[key]).replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** The name of a modality or class: translated if it is a common one. */
function named(name) {
  return WORDS[language]["name_" + name] ?? name;
}

function direction(name) {
  return name.split("->").map(named).join(" → ");
}

/** An element with text (never markup) and children. */
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return String(value);
  return Math.abs(value) >= 100 ? value.toFixed(1) : Number(value.toPrecision(digits)).toString();
}

const fixed = (value, digits = 2) =>
  value === null || value === undefined ? "–" : value.toFixed(digits);

function interval(scores, name) {
  const ends = scores?.intervals?.[name];
  return ends ? `[${fixed(ends[0])}, ${fixed(ends[1])}]` : "";
}

function duration(seconds) {
  if (seconds < 90) return say("seconds", { n: number(seconds, 2) });
  if (seconds < 5400) return say("minutes", { n: (seconds / 60).toFixed(0) });
  return say("hours", { n: (seconds / 3600).toFixed(1) });
}

// Colours that colour-blind people tell apart (Okabe and Ito 2008).
const MODALITY = ["#0072b2", "#e08a00", "#009e73", "#cc79a7"];
const CLASS = ["#8fa3b3", "#c0392b", "#009e73", "#e08a00", "#0072b2", "#cc79a7", "#b8a100", "#56b4e9"];
const NORMAL_TO_ABNORMAL = [[0, "#5b7f9b"], [0.5, "#e9dcc9"], [1, "#c0392b"]];

const modalityColour = (name) => {
  const known = { video: 0, current: 1 };
  const order = (DATA.encoded?.modalities ?? []).filter((m) => !(m in known));
  return MODALITY[(known[name] ?? 2 + order.indexOf(name)) % MODALITY.length];
};
const classColour = (number) => (number < 0 ? "#d5dbe1" : CLASS[number % CLASS.length]);

/** A colour of a scale of [share, "#rrggbb"] stops. */
function onScale(scale, share) {
  const next = Math.max(1, scale.findIndex(([stop]) => stop >= share));
  const [[from, a], [to, b]] = [scale[next - 1], scale[next]];
  const weight = (share - from) / (to - from);
  const mixed = [1, 3, 5].map((at) => {
    const [x, y] = [a, b].map((text) => parseInt(text.slice(at, at + 2), 16));
    return Math.round(x + (y - x) * weight);
  });
  return `rgb(${mixed.join(",")})`;
}

/** What a code means by the labels of one modality: the share of class 1, or null. */
function abnormalShare(modality, code) {
  const counts = DATA.encoded.codebook.by_class[modality][code];
  const total = counts.reduce((a, b) => a + b, 0);
  return total ? counts[1] / total : null;
}

/** The labelled ticks of a code by class, of all modalities. */
function classCounts(code) {
  const book = DATA.encoded.codebook;
  return DATA.encoded.classes.map((_, k) =>
    Object.values(book.by_class).reduce((sum, table) => sum + table[code][k], 0));
}

/** How a code is coloured: by what it means, or by its place among near codes. */
function codeColour(code, way) {
  const classes = DATA.encoded.classes.length;
  if (way === "meaning" && classes > 1) {
    const counts = classCounts(code);
    const total = counts.reduce((a, b) => a + b, 0);
    if (!total) return "#eceff2";
    if (classes === 2) return onScale(NORMAL_TO_ABNORMAL, counts[1] / total);
    return classColour(counts.indexOf(Math.max(...counts)));
  }
  const order = DATA.encoded.codebook.order;
  return `hsl(${Math.round((330 * order.indexOf(code)) / order.length)},62%,52%)`;
}

const FONT = { family: 'system-ui, "Segoe UI", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif', size: 12, color: "#1f2933" };
const AXIS = { gridcolor: "#eceff2", zeroline: false, linecolor: "#cfd6dd" };

function draw(id, traces, layout, config = {}) {
  const node = typeof id === "string" ? $(id) : id;
  const base = {
    font: FONT, paper_bgcolor: "#fff", plot_bgcolor: "#fff", hoverlabel: { font: FONT, align: "left" },
    margin: { l: 56, r: 16, t: 34, b: 44 }, separators: ".",
  };
  Plotly.react(node, traces, { ...base, ...layout }, {
    responsive: true, displaylogo: false, doubleClick: "reset",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"], ...config,
  });
}

const headline = (text) => ({ text, font: { size: 14 }, x: 0, xref: "paper", xanchor: "left", y: 0.98, yanchor: "top" });

/** Makes the buttons of a group exclusive; calls back with the value of the pressed one. */
function choose(group, value, then) {
  const buttons = [...$(group).querySelectorAll("button")];
  const press = (wanted) =>
    buttons.forEach((b) => b.setAttribute("aria-pressed", String(b.value === wanted)));
  press(value);
  buttons.forEach((b) => (b.onclick = () => { press(b.value); then(b.value); }));
}
