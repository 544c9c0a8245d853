// Joins the shares of `paged_attention`. Group: (head, token), 4 waves.
//
//   parts [n_tok, n_head, n_share, D]   sums [n_tok, n_head, n_share, 2]   sinks [n_head]: -1e30 for none
//   sizes [n_head, n_share], at most 128 shares                            out [n_tok, n_head, D]
//   pairs: `out` as `rows_half` makes it, of LAYOUT (0: not), not scaled: attention weighs f16 values
const uint n_head = sizes[0], n_share = sizes[1], rank = wave * 32 + lane;
const uint head = group_x, token = group_y, at = (token * n_head + head) * n_share;
SHARED(float, shared_keep, 128);
SHARED(float, shared_tops, 8);
SHARED(float, shared_out, D);
const float own = rank < n_share ? sums[2 * (at + rank)] : -1e30f;
const float wave_top = simd_max(own);
if (lane == 0) shared_tops[wave] = wave_top;
BARRIER();
float top = sinks[head];
for (uint w = 0; w < 4; w++) top = shared_tops[w] > top ? shared_tops[w] : top;
shared_keep[rank] = exp(own - top);
const float wave_mass = simd_sum(rank < n_share ? sums[2 * (at + rank) + 1] * shared_keep[rank] : 0.0f);
if (lane == 0) shared_tops[4 + wave] = wave_mass;
BARRIER();
const float mass = exp(sinks[head] - top) + shared_tops[4] + shared_tops[5] + shared_tops[6] + shared_tops[7];
for (uint i = rank; i < D; i += 128) {
  float sum = 0.0f;
  for (uint s = 0; s < n_share; s++) sum += parts[(at + s) * D + i] * shared_keep[s];
  out[(token * n_head + head) * D + i] = sum / mass;
  shared_out[i] = sum / mass;
}
if (LAYOUT > 0) {
  BARRIER();
  for (uint i = rank; i < D / 2; i += 128) {
    const uint run = i / 4, column = head * D + 8 * run;
    const uint low = 8 * run + (LAYOUT == 4 ? i % 4 : i % 4 / 2 * 4 + i % 2), high = low + (LAYOUT == 4 ? 4 : 2);
    const uint block = column / 128, step = column % 32 / 8;
    const uint place = (((token / 8 * (n_head * D / 128) + block) * 4 + step) * 8 + token % 8) * 4 + column % 128 / 32;
    pairs[4 * place + i % 4] = half_pair(shared_out[low], shared_out[high]);
  }
}
