// The other pictures: map, zero-shot results, lead, codebook, curves.

function drawMap() {
  const { map, map_windows: windows, modalities, classes, held_out } = DATA.encoded;
  const labelled = classes.length > 1 && windows.label.some((k) => k >= 0);
  const rows = labelled ? 2 : 1;
  const traces = [], annotations = [], axes = {};
  const gap = 0.02, width = (1 - gap * (map.length - 1)) / map.length;
  map.forEach((stage, column) => {
    for (let row = 0; row < rows; row += 1) {
      const axis = row * map.length + column + 1;
      const suffix = axis === 1 ? "" : axis;
      const left = column * (width + gap);
      const bottom = rows === 1 ? 0 : row === 0 ? 0.52 : 0;
      const plain = { showticklabels: false, showgrid: false, zeroline: false, ticks: "", linecolor: "#cfd6dd", mirror: true, showline: true };
      axes["xaxis" + suffix] = { ...plain, domain: [left, left + width], anchor: "y" + suffix };
      axes["yaxis" + suffix] = { ...plain, domain: [bottom, rows === 1 ? 1 : bottom + 0.48], anchor: "x" + suffix };
      const where = { xaxis: "x" + suffix, yaxis: "y" + suffix };
      traces.push(...(row === 0 ? byModality : byLabel)(stage, windows, where, column === 0));
      if (row === rows - 1) {
        annotations.push({ xref: "paper", yref: "paper", x: left + width / 2, xanchor: "center", y: 0, yanchor: "top", yshift: -4, showarrow: false, align: "center", font: { color: "#5f6c7b" }, text: mapNumbers(stage) });
      }
      if (row === 0) {
        annotations.push({ xref: "paper", yref: "paper", x: left + width / 2, xanchor: "center", y: 1, yanchor: "bottom", yshift: 4, showarrow: false, font: { size: 14 }, text: say("stage_" + stage.stage, { step: stage.step }) });
      }
    }
  });
  draw("map_plot", traces, {
    height: rows === 1 ? 424 : 724, margin: { l: 10, r: 10, t: 58, b: 80 }, ...axes, annotations,
    legend: { orientation: "h", y: -0.07, x: 0.5, xanchor: "center", yanchor: "top", itemsizing: "constant" },
  });
  $("map_key").textContent = say("map_windows", { n: windows.label.length, split: say("split_" + held_out), shapes: modalities.map((m, i) => `${named(m)} ${say("shape_" + SYMBOL[i % SYMBOL.length])}`).join(say("comma")) });
}

function mapNumbers(stage) {
  const lines = [say("map_mixing", { share: fixed(stage.mixing), even: fixed(stage.mixing_chance) })];
  if (stage.same_label !== null) lines.push(say("map_labels", { share: fixed(stage.same_label), chance: fixed(stage.same_label_chance) }));
  return lines.join("<br>");
}

const SYMBOL = ["circle", "diamond", "square", "triangle-up"];

function mapTrace(points, rows, modality, more) {
  const { modalities, map_windows: windows } = DATA.encoded;
  return {
    x: rows.map((i) => points[i][0]), y: rows.map((i) => points[i][1]), mode: "markers", type: "scatter",
    text: rows.map((i) => `${named(modality)} · ${windows.recording[i]} · ${number(windows.time_s[i], 6)} s`), hoverinfo: "text", ...more,
    marker: { symbol: SYMBOL[modalities.indexOf(modality) % SYMBOL.length], size: 7, opacity: 0.8, line: { width: 0.5, color: "#fff" }, ...more.marker },
  };
}

function byModality(stage, windows, where, legend) {
  return Object.entries(stage.points).map(([m, points]) => mapTrace(points, points.map((_, i) => i), m, {
    ...where, name: named(m), legendgroup: m, showlegend: legend, marker: { color: modalityColour(m) },
  }));
}

function byLabel(stage, windows, where, legend) {
  const kinds = [...new Set(windows.label)].sort((a, b) => a - b);
  return Object.entries(stage.points).flatMap(([m, points], first) => kinds.map((k) => mapTrace(
    points, points.map((_, i) => i).filter((i) => windows.label[i] === k), m, {
      ...where, name: k < 0 ? say("unlabelled") : named(DATA.encoded.classes[k]), legendgroup: "label" + k,
      showlegend: legend && first === 0, marker: { color: classColour(k) },
    })));
}

/** Rows of the picture of results: name, scores, colour. */
function zeroRows() {
  const { references, source, target } = DATA.evaluation;
  const rows = Object.entries(SCORES).map(([way, scores]) => ({ way, name: direction(way), scores, color: way === `${source}->${target}` ? "#c0392b" : "#0b5c8c" }));
  const first = `${source}->${target}`;
  rows.sort((a, b) => Number(b.way === first) - Number(a.way === first));
  if (references.random_encoders) rows.push({ name: say("random", { way: direction(first) }), scores: references.random_encoders[first], color: "#8fa3b3" });
  if (references.oracle) rows.push({ name: say("oracle", { modality: named(target) }), scores: references.oracle, color: "#8fa3b3" });
  return rows;
}

function drawZeroShot() {
  const { references, notes, headline_split, splits } = DATA.evaluation;
  const rows = zeroRows();
  const value = (r) => r.scores.balanced_accuracy;
  const ends = (r, at) => { const found = r.scores.intervals?.balanced_accuracy; return found ? Math.abs(found[at] - value(r)) : 0; };
  draw("zero_plot", [{
    x: rows.map(value), y: rows.map((r) => r.name), mode: "markers", type: "scatter", marker: { size: 11, color: rows.map((r) => r.color) },
    error_x: { type: "data", symmetric: false, array: rows.map((r) => ends(r, 1)), arrayminus: rows.map((r) => ends(r, 0)), color: "#7b8794", thickness: 1.5 },
    hovertemplate: "%{y}: %{x:.3f}<extra></extra>",
  }], {
    height: 90 + 42 * rows.length, margin: { l: 170, r: 24, t: 34, b: 44 }, showlegend: false,
    xaxis: { ...AXIS, range: [-0.02, 1.02], title: { text: say("balanced_accuracy") } }, yaxis: { ...AXIS, autorange: "reversed", type: "category" },
    shapes: [{ type: "line", x0: references.chance, x1: references.chance, yref: "paper", y0: 0, y1: 1, line: { dash: "dot", color: "#9aa5b1" } }],
    annotations: [{ x: references.chance, yref: "paper", y: 1, yanchor: "bottom", text: say("chance"), showarrow: false, font: { color: "#5f6c7b" } }],
  }, { displayModeBar: false });
  const metrics = ["balanced_accuracy", "accuracy", "f1", "auroc", "fdr", "mdr"];
  const cell = (r, m) => make("td", {}, fixed(r.scores[m], 3), make("br"), make("small", {}, interval(r.scores, m)));
  const table = rows.map((r, i) => make("tr", i ? {} : { class: "first" }, make("td", {}, r.name), ...metrics.map((m) => cell(r, m))));
  const plain = (name, scores) => make("tr", {}, make("td", {}, name), ...metrics.map((m) => make("td", {}, fixed(scores[m], 3))));
  table.push(plain(say("majority", { name: named(references.majority.class) }), references.majority));
  $("zero_table").replaceChildren(make("tr", {}, make("th", {}, ""), ...metrics.map((m) => make("th", {}, say(m)))), ...table);
  const split = splits[headline_split];
  const seen = make("li", {}, say("zero_split", { split: say("split_" + headline_split), n: split.labelled, recordings: split.recordings.length, setting: say("setting_" + split.setting) }));
  $("zero_notes").replaceChildren(seen, ...notes.map((text) => make("li", {}, text)));
}

function drawCodebook() {
  choose("part", "train", drawUsage);
  drawUsage("train");
  drawMeaning();
  const { shown, distances } = DATA.encoded.codebook;
  const names = shown.map(String);
  draw("distance_plot", [{
    type: "heatmap", z: distances, x: names, y: names, colorscale: "Cividis", reversescale: true, colorbar: { thickness: 12, title: { text: say("distance"), side: "right" } },
    hovertemplate: say("between") + ": %{z:.2f}<extra></extra>",
  }], {
    height: 440, title: headline(say("distance_title", { n: shown.length })), margin: { l: 46, r: 10, t: 44, b: 40 },
    xaxis: { type: "category", title: { text: say("code") }, nticks: 12, constrain: "domain" }, yaxis: { type: "category", scaleanchor: "x", autorange: "reversed", nticks: 12, constrain: "domain" },
  });
}

function drawUsage(part) {
  const { codebook, modalities } = DATA.encoded;
  const counts = codebook.counts[part];
  const total = (c) => modalities.reduce((sum, m) => sum + counts[m][c], 0);
  const codes = [...codebook.order].filter(total).sort((a, b) => total(b) - total(a));
  const traces = modalities.map((m, i) => {
    const all = counts[m].reduce((a, b) => a + b, 0) || 1;
    const sign = i === 1 ? -1 : 1;
    return {
      type: "bar", x: codes.map(String), y: codes.map((c) => (sign * 100 * counts[m][c]) / all), name: named(m),
      marker: { color: modalityColour(m) }, customdata: codes.map((c) => (100 * counts[m][c]) / all),
      hovertemplate: `${named(m)} · ${say("code")} %{x}: %{customdata:.1f} %<extra></extra>`,
    };
  });
  draw("usage_plot", traces, {
    height: 300, barmode: modalities.length === 2 ? "relative" : "group", bargap: 0.15, title: headline(say("usage_title", { n: codes.length, size: codebook.size })),
    xaxis: { type: "category", title: { text: say("code") }, nticks: 24, tickangle: 0 }, yaxis: { ...AXIS, zeroline: true, zerolinecolor: "#9aa5b1", title: { text: say("share_of_ticks") }, ticksuffix: " %" },
    legend: { orientation: "h", x: 1, xanchor: "right", y: 1.02, yanchor: "bottom" },
  });
}

/** What codes mean to two modalities: on the diagonal, the same to both. */
function drawMeaning() {
  const { codebook, modalities, classes } = DATA.encoded;
  const drawn = classes.length === 2 && modalities.length >= 2;
  $("meaning_plot").hidden = !drawn;
  if (!drawn) return;
  const [a, b] = modalities.includes("video") ? ["video", modalities.find((m) => m !== "video")] : modalities;
  const used = codebook.order.map((c) => ({ c, x: abnormalShare(a, c), y: abnormalShare(b, c), n: classCounts(c)[0] + classCounts(c)[1] })).filter((p) => p.n);
  const text = (p) => `${say("code")} ${p.c}<br>${named(a)}: ${p.x === null ? "–" : fixed(p.x)}<br>${named(b)}: ${p.y === null ? "–" : fixed(p.y)}<br>${say("ticks", { n: p.n })}`;
  const largest = Math.max(...used.map((p) => p.n), 1);
  draw("meaning_plot", [{
    x: used.map((p) => p.x ?? -0.1), y: used.map((p) => p.y ?? -0.1), mode: "markers", type: "scatter", text: used.map(text), hoverinfo: "text",
    marker: { size: used.map((p) => 6 + 26 * Math.sqrt(p.n / largest)), color: used.map((p) => codeColour(p.c, "meaning")), opacity: 0.8, line: { color: "#fff", width: 1 } },
  }], {
    height: 440, title: headline(say("meaning_title", { abnormal: named(classes[1]) })), margin: { l: 60, r: 16, t: 44, b: 48 },
    xaxis: { ...AXIS, range: [-0.17, 1.08], tickvals: [-0.1, 0, 0.5, 1], ticktext: [say("unused"), "0", "0.5", "1"], title: { text: named(a) } },
    yaxis: { ...AXIS, range: [-0.17, 1.08], tickvals: [-0.1, 0, 0.5, 1], ticktext: [say("unused"), "0", "0.5", "1"], title: { text: named(b) } },
    shapes: [{ type: "line", x0: 0, y0: 0, x1: 1, y1: 1, line: { dash: "dot", color: "#9aa5b1" } }, { type: "line", x0: -0.05, x1: -0.05, yref: "paper", y0: 0, y1: 1, line: { color: "#cfd6dd" } }, { type: "line", y0: -0.05, y1: -0.05, xref: "paper", x0: 0, x1: 1, line: { color: "#cfd6dd" } }],
  });
}

/** The panels of the curves: title, names (or their beginnings), a level to compare with. */
const PANELS = [
  { title: "curve_loss", names: ["loss"] },
  { title: "curve_terms", names: ["loss/"], splits: ["train"], log: true },
  { title: "curve_perplexity", names: ["perplexity/"] },
  { title: "curve_equal", names: ["equal_share"], share: true },
  { title: "curve_shared", names: ["shared_equal_share", "shared_kappa/", "shared_correlation/"], splits: ["validation"], share: true },
  { title: "curve_agreement", names: ["token_agreement/", "chance_agreement/"], splits: ["validation", "train"], one: true, share: true },
  { title: "curve_cpc", names: ["cpc_accuracy"], level: () => 1 / DATA.batch_size, share: true },
];

/** The value that chose the best checkpoint; it has a panel of its own if none shows it. */
const SCORE = String(DATA.config.find(([key]) => key === "score")?.[1] ?? "").replace(/^-/, "");
const shownByName = (name) => PANELS.some((p) => p.names.some((w) => (w.endsWith("/") ? name.startsWith(w) : name === w)));
const panels = () => (SCORE && !shownByName(SCORE) ? [...PANELS, { title: "curve_score", names: [SCORE] }] : PANELS);

function curveTraces(panel) {
  const splits = (panel.splits ?? ["train", "validation"]).filter((s) => DATA.curves[s]);
  return (panel.one ? splits.slice(0, 1) : splits).flatMap((split) => {
    const curves = DATA.curves[split];
    const names = Object.keys(curves).filter((n) => panel.names.some((w) => (w.endsWith("/") ? n.startsWith(w) : n === w)));
    return names.map((name, i) => {
      const last = name.split("/").at(-1);
      const single = panel.names.length === 1 && !panel.names[0].endsWith("/");
      const label = panel.names.length > 1 ? say(name.split("/")[0]) : single ? "" : named(last);
      const modality = name.startsWith("perplexity/");
      const known = say("on_" + split);
      return {
        x: curves.step, y: curves[name], name: [label, panel.splits ? "" : known].filter(Boolean).join(" · "), connectgaps: true,
        mode: split === "train" ? "lines" : "lines+markers",
        line: { width: split === "train" ? 1.4 : 2, dash: split === "train" && !panel.splits ? "dot" : "solid", ...(modality ? { color: modalityColour(last) } : single ? { color: split === "train" ? "#8fa3b3" : "#0b5c8c" } : {}) },
        marker: { size: 5 },
      };
    });
  });
}

function drawCurves() {
  const steps = [...(DATA.curves.train?.step ?? []), ...(DATA.curves.validation?.step ?? [])];
  const best = DATA.summary?.best_step;
  const nodes = panels().map(() => make("div", { class: "plot" }));
  $("curve_plots").replaceChildren(...nodes);
  panels().forEach((panel, i) => {
    const traces = curveTraces(panel);
    nodes[i].hidden = !traces.length;
    if (!traces.length) return;
    const level = panel.level?.();
    if (level) traces.push({ x: [Math.min(...steps), Math.max(...steps)], y: [level, level], mode: "lines", name: say("chance"), line: { dash: "dash", color: "#9aa5b1", width: 1 } });
    const vertical = best ? [{ type: "line", x0: best, x1: best, yref: "paper", y0: 0, y1: 1, line: { color: "#2e8b57", dash: "dot", width: 1.5 } }] : [];
    draw(nodes[i], traces, {
      height: 320, title: headline(say(panel.title, { name: SCORE })), margin: { l: 48, r: 12, t: 34, b: 96 }, shapes: vertical,
      xaxis: { ...AXIS, title: { text: say("step"), standoff: 4 } }, yaxis: { ...AXIS, type: panel.log ? "log" : "linear", rangemode: panel.log ? "normal" : "tozero", ...(panel.log ? { dtick: 1 } : {}) },
      legend: { orientation: "h", y: -0.26, x: 0, font: { size: 11 } },
    }, { displayModeBar: false });
  });
}

const seconds = (s, ends) => `${number(s, 4)} s` + (ends ? ` [${number(ends[0], 4)}, ${number(ends[1], 4)}]` : "");

function leadFacts(lead) {
  const found = lead.estimate_s !== null;
  const set = lead.trained_lead_s === null ? "" : say("lead_trained", { n: number(lead.trained_lead_s) });
  return { value: found ? seconds(lead.estimate_s, lead.interval_s) : named(lead.verdict ?? "–"), below: [found && lead.verdict ? named(lead.verdict) : "", set].filter(Boolean).join(say("comma")) };
}

/** Each indicator over the leads that were tried, scaled to lie between 0 and 1. */
function drawLead() {
  const lead = DATA.lead;
  $("lead_plot").hidden = !lead?.curves.length;
  $("lead_notes").replaceChildren(...(lead?.notes ?? []).map((text) => make("li", {}, text)));
  if (!lead) {
    $("lead_facts").textContent = say("lead_missing");
    return;
  }
  const facts = leadFacts(lead);
  const recordings = lead.recordings.map((r) => `${r.name} ${seconds(r.estimate_s, r.interval_s)}`);
  $("lead_facts").textContent = [facts.value, facts.below, lead.indicator && say("lead_by", { name: lead.indicator }), recordings.length && say("lead_each", { list: recordings.join(say("comma")) })].filter(Boolean).join(" · ");
  if (!lead.curves.length) return;
  const chosen = lead.curves.find((c) => c.name === lead.indicator) ?? lead.curves[0];
  const lead_s = chosen.lead_s;
  const scale = (curve) => {
    const known = curve.value.filter((v) => v !== null);
    const low = Math.min(...known), span = Math.max(...known) - low || 1;
    return (v) => (v === null ? null : (v - low) / span);
  };
  const traces = lead.curves.map((curve) => ({
    x: curve.lead_s, y: curve.value.map(scale(curve)), customdata: curve.value, name: curve.name, mode: "lines", line: { width: curve === chosen ? 3 : 1.2, ...(curve === chosen ? { color: "#0b5c8c" } : {}) }, opacity: curve === chosen ? 1 : 0.6,
    hovertemplate: `${curve.name} · %{x:.4g} s: %{customdata:.4g}<extra></extra>`,
  }));
  for (const level of chosen.wrong_pairings ?? []) {
    const y = scale(chosen)(level);
    traces.push({ x: [lead_s[0], lead_s.at(-1)], y: [y, y], name: say("lead_chance"), mode: "lines", line: { width: 1.3, dash: "dash", color: "#5f6c7b" }, hoverinfo: "skip", showlegend: level === chosen.wrong_pairings[0] });
  }
  const across = { yref: "paper", y0: 0, y1: 1 };
  const line = (x, color, dash) => ({ type: "line", x0: x, x1: x, ...across, line: { color, width: 2, dash } });
  const shapes = [];
  if (lead.interval_s) shapes.push({ type: "rect", x0: lead.interval_s[0], x1: lead.interval_s[1], ...across, fillcolor: "#c0392b", opacity: 0.12, line: { width: 0 }, layer: "below" });
  if (lead.trained_lead_s !== null) shapes.push(line(lead.trained_lead_s, "#9aa5b1", "dot"));
  if (lead.estimate_s !== null) shapes.push(line(lead.estimate_s, "#c0392b", "solid"));
  draw("lead_plot", traces, { height: 380, shapes, margin: { l: 56, r: 16, t: 12, b: 44 }, xaxis: { ...AXIS, title: { text: say("axis_lead") } }, yaxis: { ...AXIS, title: { text: say("axis_indicator") } }, legend: { orientation: "h", y: -0.2 } });
}
