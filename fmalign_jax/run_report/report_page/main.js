// The sections in their order, and the switch of languages.

const tile = (name, value, below) =>
  make("div", { class: "tile" }, make("span", {}, name), make("b", {}, value), make("span", {}, below));

const lastOf = (split, name) => DATA.curves[split]?.[name]?.filter((v) => v !== null && v !== undefined).at(-1);

/** The figures that matter first, each beside what it is to be compared with. */
function drawTiles() {
  const tiles = [];
  const evaluation = DATA.evaluation;
  if (evaluation) {
    const way = `${evaluation.source}->${evaluation.target}`;
    const scores = SCORES[way];
    const references = evaluation.references;
    const beside = [say("chance_is", { n: fixed(references.chance) })];
    if (references.random_encoders) beside.push(say("random_is", { n: fixed(references.random_encoders[way].balanced_accuracy) }));
    if (references.oracle) beside.push(say("oracle_is", { n: fixed(references.oracle.balanced_accuracy) }));
    tiles.push(tile(say("tile_zero", { way: direction(way) }),
      `${fixed(scores.balanced_accuracy)} ${interval(scores, "balanced_accuracy")}`, beside.join(say("comma"))));
  }
  const sharing = evaluation?.code_sharing;
  if (sharing?.verdict) {
    const table = sharing.by_code[`${evaluation.source}->${evaluation.target}`];
    tiles.push(tile(say("tile_sharing"), say("verdict_" + sharing.verdict), say("sharing_is", {
      agreement: fixed(sharing.agreement), chance: fixed(sharing.chance_shift), kappa: fixed(sharing.kappa.shift),
      share: fixed(sharing.equal_share), table: fixed(table.balanced_accuracy), codes: sharing.codes,
    })));
  }
  if (DATA.lead) {
    const found = leadFacts(DATA.lead);
    tiles.push(tile(say("tile_lead"), found.value, found.below));
  } else if (DATA.encoded) {
    tiles.push(tile(say("tile_lead_set"), say("seconds", { n: number(DATA.encoded.lead_s) }), say("lead_not_searched")));
  }
  const split = DATA.curves.validation ? "validation" : "train";
  const where = say("on_" + split);
  const modalities = Object.keys(DATA.curves[split] ?? {}).filter((n) => n.startsWith("perplexity/"));
  if (modalities.length) {
    tiles.push(tile(say("tile_perplexity"), modalities.map((n) => fixed(lastOf(split, n), 0)).join(" / "),
      modalities.map((n) => named(n.split("/")[1])).join(" / ") + " · " + where));
  }
  if (lastOf(split, "shared_equal_share") !== undefined) {
    const kappa = Object.keys(DATA.curves[split]).find((n) => n.startsWith("shared_kappa/"));
    tiles.push(tile(say("tile_shared_equal"), fixed(lastOf(split, "shared_equal_share"), 3),
      say("kappa_is", { n: fixed(lastOf(split, kappa), 3) }) + " · " + where));
  } else if (lastOf(split, "equal_share") !== undefined) {
    const chance = Object.keys(DATA.curves[split]).find((n) => n.startsWith("chance_agreement/"));
    const same = Object.keys(DATA.curves[split]).find((n) => n.startsWith("token_agreement/"));
    tiles.push(tile(say("tile_equal"), fixed(lastOf(split, "equal_share"), 3),
      say("ticks_agree", { n: fixed(lastOf(split, same), 3), chance: fixed(lastOf(split, chance), 3) })));
  }
  if (lastOf(split, "cpc_accuracy") !== undefined) {
    tiles.push(tile(say("tile_cpc"), fixed(lastOf(split, "cpc_accuracy"), 3), say("chance_is", { n: fixed(1 / DATA.batch_size, 3) }) + " · " + where));
  }
  if (!shownByName(SCORE) && lastOf(split, SCORE) !== undefined) {
    tiles.push(tile(say("tile_score", { name: SCORE }), fixed(lastOf(split, SCORE), 3), where));
  }
  $("tiles").replaceChildren(...tiles);
}

function drawShort() {
  $("name").textContent = DATA.name;
  document.title = `${DATA.name} · fmalign_jax`;
  const summary = DATA.summary;
  const parts = [];
  if (summary) {
    parts.push(say("about_steps", { step: summary.step, steps: summary.steps, time: duration(summary.seconds) }));
    const windows = summary.windows;
    parts.push(say("about_windows", { train: windows.train, validation: windows.validation, test: windows.test }));
    parts.push(say("about_size", { n: summary.parameters.toLocaleString("en"), devices: summary.devices.join(", "), jax: summary.versions.jax }));
  } else parts.push(say("about_unfinished"));
  if (DATA.encoded) parts.push(say("about_checkpoint", { step: DATA.encoded.step, kept: DATA.encoded.kept.join(", ") }));
  $("about").textContent = parts.join(" · ");
  $("notes").replaceChildren(...DATA.notes.map(([key, why]) => make("li", {}, say("note_" + key, { why }))));
  drawTiles();
}

function drawConfig() {
  const cell = (v) => (typeof v === "string" ? v : JSON.stringify(v));
  $("config_table").replaceChildren(...DATA.config.map(([key, value]) =>
    make("tr", {}, make("td", {}, key), make("td", {}, cell(value)))));
}

/** Shows a section only if there is something in it; then draws it. */
function section(id, there, render) {
  $(id).hidden = !there;
  if (there) render();
}

function drawAll() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  document.querySelectorAll("[data-word]").forEach((n) => (n.textContent = say(n.dataset.word)));
  const encoded = DATA.encoded;
  drawShort();
  section("timeline", encoded?.recordings.length, drawTimeline);
  section("map", encoded?.map.length, drawMap);
  section("zero", DATA.evaluation, drawZeroShot);
  section("lead", true, drawLead);
  section("codebook", encoded?.codebook, drawCodebook);
  section("curves", Object.keys(DATA.curves).length, drawCurves);
  drawConfig();
  $("made").textContent = say("made", { day: DATA.made });
  $("nav").replaceChildren(...[...document.querySelectorAll("main section")]
    .filter((s) => !s.hidden && s.id !== "short")
    .map((s) => make("a", { href: "#" + s.id }, say("nav_" + s.id))));
}

language = (navigator.language || "en").startsWith("zh") ? "zh" : "en";
addEventListener("resize", () => DATA.encoded?.recordings.length && drawStrip());
choose("language", language, (value) => { language = value; drawAll(); });
drawAll();
