// One recording over time: frames above, the plot, and what is under the cursor beside it.

const CHANNEL = ["#0b5c8c", "#c98a1b", "#5a8f3c", "#8c4f9f", "#555555", "#c0392b"];
const LEFT = 86, RIGHT = 16; // margins of the plot, px, as in the style of #strip
const time = { recording: 0, colour: "meaning", aligned: false, range: null };

const recordingNow = () => DATA.encoded.recordings[time.recording];

/** Long recordings are shown in minutes. */
const perUnit = () => (recordingNow().length_s > 600 ? 60 : 1);

/** Seconds by which what was read of a stream moves to stand beside the reference. */
const moved = (name) =>
  time.aligned && name === DATA.encoded.leading ? DATA.encoded.lead_s : 0;

/** Where a score stands: at its window's end, when an alarm can first sound; aligned, at the reference. */
function scoreTimes(recording) {
  const { t, shift_s } = recording.score;
  return t.map((s) => (time.aligned ? s : s - shift_s + recording.window_s / 2));
}

function wholeRange() {
  const r = recordingNow();
  return [0, r.length_s / perUnit()];
}

function drawTimeline() {
  const { recordings, classes, lead_s, leading } = DATA.encoded;
  $("recording").replaceChildren(...recordings.map((r, i) => make("option", { value: i }, `${r.name} (${say("split_" + r.split)})`)));
  $("recording").value = time.recording;
  $("recording").onchange = (event) => {
    time.recording = Number(event.target.value);
    time.range = null;
    drawTimeline();
  };
  if (classes.length < 2) time.colour = "code";
  const coded = Boolean(DATA.encoded.codebook);
  $("colour").hidden = classes.length < 2 || !coded;
  choose("colour", time.colour, (value) => { time.colour = value; drawTracks(); });
  $("align_label").hidden = lead_s === 0;
  $("align_text").textContent = say("align", { stream: named(leading), n: number(lead_s) });
  $("align").onchange = (event) => { time.aligned = event.target.checked; drawTracks(); };
  $("zoom").querySelectorAll("button").forEach((b) => (b.onclick = () => zoom(b.value)));
  const keys = [];
  if (coded) keys.push(say("key_codes_" + (classes.length < 2 ? "unlabelled" : classes.length === 2 ? "two" : "many"), { abnormal: named(classes[1]) }));
  if (recordingNow().score) keys.push(say("key_score_" + (classes.length === 2 ? "two" : "many"), { abnormal: named(classes[1]) }));
  $("timeline_key").textContent = keys.join(" ");
  drawTracks();
}

function zoom(way) {
  const [low, high] = wholeRange();
  const [a, b] = time.range ?? [low, high];
  if (way === "all") time.range = null;
  else {
    const middle = (a + b) / 2, half = ((b - a) / 2) * (way === "in" ? 0.5 : 2);
    time.range = [Math.max(low, middle - half), Math.min(high, middle + half)];
    if (time.range[0] === low && time.range[1] === high) time.range = null;
  }
  Plotly.relayout("timeline_plot", { "xaxis.range": time.range ?? wholeRange() });
}

/** Codes of a modality as a strip of cells, one a tick; empty where no window lies. */
function codeStrip(recording, modality, row) {
  const { t, code } = recording.codes[modality];
  const step = recording.tick_s, unit = perUnit();
  const first = t.length ? Math.min(...t) : 0;
  const cells = t.length ? Math.round((Math.max(...t) - first) / step) + 1 : 0;
  const z = new Array(cells).fill(null);
  // Colours are looked up by code, so that every way of colouring is one list.
  t.forEach((s, i) => (z[Math.round((s - first) / step)] = code[i]));
  const size = DATA.encoded.codebook.size;
  const scale = [];
  for (let c = 0; c < size; c += 1) {
    const colour = codeColour(c, time.colour);
    scale.push([c / size, colour], [(c + 1) / size, colour]);
  }
  return {
    type: "heatmap", z: [z], x0: (first + moved(modality)) / unit, dx: step / unit, y0: row, dy: 1, yaxis: "y2",
    colorscale: scale, zmin: -0.5, zmax: size - 0.5, showscale: false, hoverinfo: "none", ygap: 5,
  };
}

function sensorTraces(recording) {
  const unit = perUnit();
  return Object.entries(recording.sensors).slice(0, 1).flatMap(([name, sensor]) =>
    sensor.channels.map((channel, i) => ({
      x: channel.t.map((s) => (s + moved(name)) / unit), y: channel.v, mode: "lines", name: channel.name,
      line: { width: 0.8, color: CHANNEL[i] }, opacity: 0.75, hoverinfo: "none",
    })));
}

/** The label above the tracks; of two classes, the second also tints them. */
function labelShapes(recording) {
  const two = DATA.encoded.classes.length === 2;
  const rectangle = (a, b, low, high, fillcolor, opacity, layer) => ({
    type: "rect", xref: "x", yref: "paper", x0: a / perUnit(), x1: b / perUnit(), y0: low, y1: high, fillcolor, opacity, layer, line: { width: 0 },
  });
  return recording.label.flatMap(([a, b, k]) => [
    ...(k < 0 ? [] : [rectangle(a, b, 0.955, 1, classColour(k), 1, "above")]),
    ...(two && k === 1 ? [rectangle(a, b, 0, 0.955, CLASS[1], 0.08, "below")] : []),
  ]);
}

function drawTracks() {
  const recording = recordingNow();
  const { classes } = DATA.encoded;
  // A system without a codebook has no tracks of codes.
  const modalities = DATA.encoded.modalities.filter((m) => m in recording.codes);
  const rows = modalities.map(named);
  const two = classes.length === 2;
  const unit = perUnit();
  const sensor = Object.entries(recording.sensors)[0];
  const score = recording.score && { x: scoreTimes(recording).map((s) => s / unit), y: recording.score.v };
  const traces = [
    ...sensorTraces(recording),
    ...modalities.map((m, i) => codeStrip(recording, m, i)),
    ...(score ? [{ ...score, yaxis: "y3", mode: two ? "lines+markers" : "markers", line: { color: "#7b2d8b", width: 1.6 }, marker: { size: 5, color: "#7b2d8b" }, hoverinfo: "none" }] : []),
  ];
  const track = (text, domain, more = {}) => ({ ...AXIS, domain, title: { text, standoff: 6 }, fixedrange: true, ...more });
  const codes = score ? [0.34, 0.5] : [0.02, 0.24];
  const shapes = labelShapes(recording);
  if (score && two) shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, yref: "y3", y0: 0.5, y1: 0.5, line: { color: "#9aa5b1", width: 1, dash: "dot" } });
  draw("timeline_plot", traces, {
    height: score ? 544 : 444, margin: { l: LEFT, r: RIGHT, t: 32, b: 46 }, hovermode: false, dragmode: "zoom",
    xaxis: { ...AXIS, range: time.range ?? wholeRange(), title: { text: say(unit === 60 ? "axis_minutes" : "axis_seconds"), standoff: 8 }, anchor: score ? "y3" : rows.length ? "y2" : "y" },
    yaxis: track(sensor ? named(sensor[0]) + (sensor[1].unit ? ` (${sensor[1].unit})` : "") : "", [rows.length ? (score ? 0.55 : 0.3) : score ? 0.34 : 0.02, 0.94]),
    yaxis2: rows.length ? track(say("codes"), codes, { range: [modalities.length - 0.5, -0.5], tickvals: rows.map((_, i) => i), ticktext: rows, showgrid: false }) : { visible: false },
    yaxis3: score ? track(say("score"), [0, 0.28], two ? { range: [-0.04, 1.04] } : { tickvals: classes.map((_, k) => k), ticktext: classes.map(named), range: [-0.5, classes.length - 0.5] }) : { visible: false },
    annotations: classes.length === 0 ? [] : [{ xref: "paper", yref: "paper", x: 0, xanchor: "right", xshift: -6, y: 0.978, yanchor: "middle", showarrow: false, text: say("label"), font: { size: 12 } }],
    shapes, showlegend: false,
  });
  const node = $("timeline_plot");
  node.removeAllListeners("plotly_relayout");
  node.on("plotly_relayout", () => {
    const found = node.layout.xaxis.range.map(Number);
    const [low, high] = wholeRange();
    time.range = found[0] <= low && found[1] >= high ? null : found;
    drawStrip();
  });
  document.querySelector("#timeline .stack").onmousemove = follow;
  document.querySelector("#timeline .stack").onmouseleave = () => ($("cursor").style.display = "none");
  drawStrip();
  const [a, b] = time.range ?? wholeRange();
  inspect(((a + b) / 2) * unit);
}

const picture = (jpeg) => "data:image/jpeg;base64," + jpeg;

function nearest(times, s) {
  let best = -1;
  times.forEach((t, i) => { if (best < 0 || Math.abs(t - s) < Math.abs(times[best] - s)) best = i; });
  return best;
}

/** As many frames of the visible stretch as fit side by side. */
function drawStrip() {
  const { frames } = recordingNow();
  $("strip").hidden = !frames;
  if (!frames) return;
  const width = $("strip").clientWidth;
  const [a, b] = (time.range ?? wholeRange()).map((x) => x * perUnit());
  const places = Math.max(1, Math.floor(width / 70));
  const seen = new Set();
  const shown = [];
  for (let i = 0; i < places; i += 1) {
    const wanted = a + ((i + 0.5) / places) * (b - a);
    const at = nearest(frames.t, wanted);
    // A frame that lies elsewhere than its place would say something false.
    if (seen.has(at) || Math.abs(frames.t[at] - wanted) > (b - a) / places) continue;
    seen.add(at);
    const x = Math.min(width - 33, Math.max(33, ((frames.t[at] - a) / (b - a)) * width));
    shown.push(make("figure", { style: `left:${x}px` }, make("img", { src: picture(frames.jpeg[at]), alt: "" }), make("figcaption", {}, clock(frames.t[at]))));
  }
  $("strip").replaceChildren(...shown);
}

function clock(s) {
  const whole = Math.floor(s);
  if (perUnit() === 1) return s.toFixed(1) + " s";
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

function follow(event) {
  const box = document.querySelector("#timeline .stack").getBoundingClientRect();
  const share = (event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT);
  if (share < 0 || share > 1) return;
  $("cursor").style.display = "block";
  $("cursor").style.left = `${event.clientX - box.left}px`;
  const [a, b] = time.range ?? wholeRange();
  inspect((a + share * (b - a)) * perUnit());
}

/** What lies at one moment of the axis, in seconds. */
function inspect(s) {
  const recording = recordingNow();
  const { classes, modalities } = DATA.encoded;
  const lines = [[say("time"), clock(s)]];
  const span = recording.label.find(([a, b]) => a <= s && s < b);
  if (classes.length) lines.push([say("label"), span && span[2] >= 0 ? named(classes[span[2]]) : "–"]);
  for (const m of modalities.filter((m) => m in recording.codes)) {
    const { t, code } = recording.codes[m];
    const at = nearest(t, s - moved(m));
    const there = at >= 0 && Math.abs(t[at] - (s - moved(m))) <= recording.tick_s;
    lines.push([say("code_of", { modality: named(m) }), there ? make("span", { class: "chip", style: `background:${codeColour(code[at], time.colour)}` }, String(code[at])) : "–"]);
  }
  if (recording.score) {
    const times = scoreTimes(recording);
    const at = nearest(times, s);
    const value = recording.score.v[at];
    const near = Math.abs(times[at] - s) <= recording.window_s;
    lines.push([say("score"), near ? (classes.length === 2 ? fixed(value) : named(classes[value])) : "–"]);
  }
  for (const [name, sensor] of Object.entries(recording.sensors).slice(0, 1)) {
    sensor.channels.forEach((channel, i) => {
      const at = nearest(channel.t, s - moved(name));
      const swatch = make("span", { class: "swatch", style: `background:${CHANNEL[i]}` });
      lines.push([make("span", {}, swatch, channel.name), `${number(channel.v[at], 4)} ${sensor.unit}`]);
    });
  }
  const at = recording.frames ? nearest(recording.frames.t, s) : -1;
  const near = at >= 0 ? [make("img", { src: picture(recording.frames.jpeg[at]), alt: say("frame") })] : [];
  $("inspector").replaceChildren(...near, make("dl", {}, ...lines.flatMap(([k, v]) => [make("dt", {}, k), make("dd", {}, v)])));
}
