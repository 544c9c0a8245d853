// What the experts of rows made, weighted and summed. Group: 256 columns of a row, 8 waves.
//
//   y [n_tok n_used, n_out] f32, or with SCALED f16 or bf16 times y_scales [n_tok n_used]    weights [n_tok, n_used] f32
//   place [n_tok n_used] (PLACED): where in y and y_scales each is    sizes [n_used, n_out]    out [n_tok, n_out] f32
const uint n_used = sizes[0], n_out = sizes[1], column = group_x * 256 + wave * 32 + lane;
if (column < n_out) {
  float sum = 0.0f;
  for (uint k = group_y * n_used; k < (group_y + 1) * n_used; k++) {
    const uint at = PLACED == 1 ? place[k] : k;
    sum += weights[k] * (SCALED == 1 ? y_scales[at] : 1.0f) * float(y[at * n_out + column]);
  }
  out[group_y * n_out + column] = sum;
}
