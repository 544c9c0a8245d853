// Joins the shares of `paged_attention`. Group: (head, token), 1 wave.
//
//   parts [n_tok, n_head, n_share, D]   sums [n_tok, n_head, n_share, 2]   sinks [n_head]: -1e30 for none
//   sizes [n_head, n_share]             out [n_tok, n_head, D]
const uint n_head = sizes[0], n_share = sizes[1];
const uint head = group_x, token = group_y, at = (token * n_head + head) * n_share;
float top = sinks[head];
for (uint s = 0; s < n_share; s++) top = sums[2 * (at + s)] > top ? sums[2 * (at + s)] : top;
float mass = exp(sinks[head] - top);
float sum[D / 32];
for (uint i = 0; i < D / 32; i++) sum[i] = 0.0f;
for (uint s = 0; s < n_share; s++) {
  const float keep = exp(sums[2 * (at + s)] - top);
  mass += sums[2 * (at + s) + 1] * keep;
  for (uint i = 0; i < D / 32; i++) sum[i] += parts[(at + s) * D + i * 32 + lane] * keep;
}
for (uint i = 0; i < D / 32; i++) out[(token * n_head + head) * D + i * 32 + lane] = sum[i] / mass;
