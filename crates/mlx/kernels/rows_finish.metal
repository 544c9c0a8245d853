// What matrix products of rows in 16 bits stand for. Group: 256 columns of a row, 8 waves.
//
//   y, z [n_tok, n_out] f16 or bf16    x_scales [n_tok]    residual [n_tok, n_out] f32 (ADD)    sizes [n_out]
//   out [n_tok, n_out] f32: y x_scales; GLU: y x_scales as a gate of z x_scales
const uint n_out = sizes[0], token = group_y, column = group_x * 256 + wave * 32 + lane;
if (column < n_out) {
  const uint at = token * n_out + column;
  float value = float(y[at]) * x_scales[token];
  const float second = float(z[at]) * x_scales[token];
  GATED(value, second);
  if (ADD == 1) value += residual[at];
  out[at] = value;
}
