// The comparison of runs: a metric against relative depth, a line a run; and which views each kind of run has.

const comparison = {
  name: "runs",
  title: "comparison of runs",
  exists: (data) => data.runs.length > 1,
  controls: [
    { key: "runs", words: "Runs", several: true, options: runOptions },
    { ...METRIC, options: (data) => asOptions(data.runs.flatMap((run) => run.metrics), (name) => data.metrics[name]) },
    named("part", "Of", (data) => Object.keys(data.styles)),
    { key: "middle", words: "Value", options: () => [["median", "median"], ["mean", "mean"]] },
    SCALE,
  ],
  draw(data, choice) {
    const title = data.metrics[choice.metric];
    const found = choice.runs
      .map((place) => ({ ...data.runs[place], place: Number(place), points: byDepth(data.runs[place], choice) }))
      .filter(({ points }) => points.length);
    const points = found.flatMap((run) => run.points.map((point) => ({ run: run.label, ...point })));
    const values = points.map((point) => point.value);
    const type = scaleOf(values, choice);
    const span = spanWords(points.map(({ run, layer, value }) => ({ value, at: `${run}, layer ${layer}` })));
    return {
      traces: found.map(depthTrace),
      layout: {
        xaxis: { title: { text: "relative depth, layer over last layer" }, zeroline: false },
        yaxis: valueAxis(title, type, values),
      },
      says: `${title} of ${wordsOf(data, choice.part)}, the ${choice.middle} of each layer, ${found.length} runs: `
        + `${span}${hiddenWords(values, type)}`,
      table: {
        head: ["run", "layer", "relative depth", choice.middle],
        rows: points.map(({ run, layer, depth, value }) => [run, layer, depth, value]),
      },
    };
  },
};

/** The median or mean of a metric by layer: over samples, or over the matrices or heads of a role. */
function byDepth(run, { part, metric, middle }) {
  const parts = (run.groups ?? run.rows).filter((each) => (each.component ?? each.role) === part && there(each.layer));
  const layers = ascending(unique(parts.map((each) => each.layer)));
  return layers.flatMap((layer) => {
    const own = parts.filter((each) => each.layer === layer);
    const value = run.groups ? own[0].boxes[metric]?.[middle] : MIDDLES[middle](own.map((row) => row.values[metric]));
    return there(value) ? [{ layer, depth: layer / (layers.at(-1) || 1), value }] : [];
  });
}

const MIDDLES = {
  median(values) {
    const sorted = ascending(values.filter(there));
    const half = sorted.length >> 1;
    return sorted.length % 2 ? sorted[half] : sorted.length ? (sorted[half - 1] + sorted[half]) / 2 : null;
  },
  mean(values) {
    const known = values.filter(there);
    return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
  },
};

function depthTrace({ label, style, place, points }) {
  return {
    type: "scatter", mode: "lines+markers", name: plain(label),
    x: points.map((point) => point.depth), y: points.map((point) => point.value),
    text: points.map(({ layer, value }) => `${plain(label)}, layer ${layer}: ${value}`),
    hovertemplate: "%{text}<extra></extra>",
    line: { color: style.colour, dash: style.dash, width: 1.8 },
    marker: { color: style.colour, size: 7, symbol: SYMBOLS[place % SYMBOLS.length] },
  };
}

const VIEWS = {
  samples: [boxes, medianSpectra, sampleSpectrum, scatter, comparison],
  matrices: [metricByLayer, matrixSpectrum, scatter, comparison],
  heads: [headMap, headSpectrum, scatter, comparison],
  experiments: [byExperiment],
};
