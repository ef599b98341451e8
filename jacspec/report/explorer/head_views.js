// The views of runs over attention heads: a map of a metric, and the spectrum of one head beside chance.

const headMap = {
  name: "map",
  title: "map of the heads",
  exists: () => true,
  controls: [RUN, METRIC, named("role", "Role", roles), SCALE],
  draw(data, choice) {
    const title = data.metrics[choice.metric];
    const rows = rowsOf(data, choice).filter((row) => row.role === choice.role);
    const [layers, heads] = ["layer", "head"].map((key) => ascending(unique(rows.map((row) => row[key]))));
    const found = new Map(rows.map((row) => [`${row.layer}/${row.head}`, row.values[choice.metric]]));
    const grid = layers.map((layer) => heads.map((head) => found.get(`${layer}/${head}`) ?? null));
    const at = (layer, head) => `layer ${layers[layer]}, head ${heads[head]}`;
    const entries = grid.flatMap((row, layer) => row.map((value, head) => ({ value, at: at(layer, head) })))
      .filter(({ value }) => there(value));
    const type = scaleOf(grid.flat(), choice);
    return {
      traces: [{
        ...mapTrace(layers, heads, grid, type),
        text: grid.map((row, layer) => row.map((value, head) => `${at(layer, head)}: ${value ?? "missing"}`)),
        colorbar: { title: { text: plain(`${type === "log" ? "log₁₀ of " : ""}${title}`), side: "right" } },
      }],
      layout: { xaxis: countAxis(heads, "head"), yaxis: countAxis(layers, "layer") },
      says: `${title} of ${wordsOf(data, choice.role)}, ${entries.length} heads: ${spanWords(entries)}`
        + hiddenWords(grid.flat(), type),
      table: {
        head: ["layer", ...heads.map((head) => `head ${head}`)],
        rows: grid.map((row, place) => [layers[place], ...row]),
      },
    };
  },
};

/** Colours of a map; a logarithmic scale has no axis of colours in Plotly, so logarithms are what is coloured. */
function mapTrace(layers, heads, grid, type) {
  const coloured = (value) => (type === "linear" ? value : value > 0 ? Math.log10(value) : null);
  return {
    type: "heatmap", x: heads, y: layers, z: grid.map((row) => row.map(coloured)), customdata: grid,
    colorscale: "Viridis", xgap: 1, ygap: 1, hoverongaps: true, hovertemplate: "%{text}<extra></extra>",
  };
}

const ofRole = (data, choice) => withSigma(data, choice).filter((row) => row.role === choice.role);
const ofLayer = (data, choice) => ofRole(data, choice).filter((row) => row.layer === Number(choice.layer));

const headSpectrum = {
  name: "head",
  title: "spectrum of one head",
  exists: matrixSpectrum.exists,
  controls: [
    RUN_WITH_SIGMA, ROLE_WITH_SIGMA,
    numbered("layer", "Layer", (data, choice) => ofRole(data, choice).map((row) => row.layer)),
    numbered("head", "Head", (data, choice) => ofLayer(data, choice).map((row) => row.head)),
    SCALE,
  ],
  draw(data, choice) {
    const { baseline } = runOf(data, choice);
    const { name, sigma } = ofLayer(data, choice).find((row) => row.head === Number(choice.head));
    const lines = [{ name: `head ${choice.head}`, values: sigma, style: { color: "#0072B2" } }];
    if (baseline?.length === sigma.length) {
      // The baseline's root mean square is 1.
      const size = Math.sqrt(sigma.reduce((sum, value) => sum + value * value, 0) / sigma.length);
      const style = { color: "#D55E00", dash: "dash" };
      lines.push({ name: "Gaussian factors", values: baseline.map((value) => value * size), style });
    }
    const beside = lines.length > 1 ? ", beside the median of Gaussian factors with the same Σσ²" : "";
    return drawSpectra(lines, `Singular values of ${name}${beside}.`, choice);
  },
};
