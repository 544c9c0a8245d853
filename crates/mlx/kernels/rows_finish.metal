// What matrix products of rows in 16 bits stand for. Group: 256 columns of a row, 8 waves.
//
//   y, z [n_tok, n_out] f16 or bf16    x_scales, each of `share` rows    residual [n_tok, n_out] f32 (ADD)    sizes [n_out, share]
//   out [n_tok, n_out] f32: y x_scales; GLU: y x_scales as a gate of z x_scales
const uint n_out = sizes[0], token = group_y, column = group_x * 256 + wave * 32 + lane;
if (column < n_out) {
  const uint at = token * n_out + column;
  const float scale = x_scales[token / sizes[1]];
  float value = float(y[at]) * scale;
  const float second = float(z[at]) * scale;
  GATED(value, second);
  if (ADD == 1) value += residual[at];
  out[at] = value;
}
