// Attention of one token's queries over a share of its KV slots, all query heads of a KV head at once: each key and
// value is read once. Group: (KV head, token, share), 4 waves; a wave takes four slots of sixteen at a time, so that their
// loads and sums overlap, a lane D / 32 dimensions; the softmax runs along (Milakov and Gimelshein, arXiv:1805.02867).
// `attention_merge` joins the shares.
//
//   q [n_tok, n_kv_head * G, D]     k, v [n_place, n_kv_head, D]    pages [n_tok, max_page]
//   spans [n_tok, 2]: KV slots from, to                             sizes [n_kv_head, max_page, n_share, page_tokens]
//   factors [scale, cap]: cap 0 for none
//   parts [n_tok, n_kv_head * G, n_share, D]: weighted sums         sums [.., 2]: largest score, sum of exponentials
const uint n_kv_head = sizes[0], max_page = sizes[1], n_share = sizes[2], page_tokens = sizes[3];
const uint kv_head = group_x, token = group_y, share = group_z;
const uint from = spans[2 * token], to = spans[2 * token + 1];
const uint length = (to - from + n_share - 1) / n_share;
const uint first = from + share * length;
const uint last = first + length < to ? first + length : to;
const float cap = factors[1];
SHARED(float, shared_parts, 4 * D);
SHARED(float, shared_sums, 8);

float query[G][D / 32], sum[G][D / 32], largest[G], mass[G];
for (uint g = 0; g < G; g++) {
  largest[g] = -1e30f;
  mass[g] = 0.0f;
  for (uint i = 0; i < D / 32; i++) {
    query[g][i] = q[((token * n_kv_head + kv_head) * G + g) * D + lane * (D / 32) + i] * factors[0];
    sum[g][i] = 0.0f;
  }
}
for (uint base = first + 4 * wave; base < last; base += 16) {
  float score[G][4], value[4][D / 32];
  for (uint s = 0; s < 4; s++) {
    const uint slot = base + s < last ? base + s : base;
    const uint place = uint(pages[token * max_page + slot / page_tokens]) * page_tokens + slot % page_tokens;
    const uint at = (place * n_kv_head + kv_head) * D + lane * (D / 32);
    float key[D / 32];
    for (uint i = 0; i < D / 32; i++) {
      key[i] = float(k[at + i]);
      value[s][i] = float(v[at + i]);
    }
    for (uint g = 0; g < G; g++) {
      score[g][s] = 0.0f;
      for (uint i = 0; i < D / 32; i++) score[g][s] += query[g][i] * key[i];
    }
  }
  for (uint g = 0; g < G; g++) {
    float top = largest[g];
    for (uint s = 0; s < 4; s++) {
      score[g][s] = simd_sum(score[g][s]);
      if (cap > 0.0f) score[g][s] = cap * tanh(score[g][s] / cap);
      if (base + s >= last) score[g][s] = -1e30f;
      top = score[g][s] > top ? score[g][s] : top;
    }
    const float keep = exp(largest[g] - top);
    largest[g] = top;
    mass[g] *= keep;
    for (uint i = 0; i < D / 32; i++) sum[g][i] *= keep;
    for (uint s = 0; s < 4; s++) {
      const float weight = exp(score[g][s] - top);
      mass[g] += weight;
      for (uint i = 0; i < D / 32; i++) sum[g][i] += weight * value[s][i];
    }
  }
}
for (uint g = 0; g < G; g++) {
  if (lane == 0) shared_sums[wave] = largest[g];
  BARRIER();
  float top = shared_sums[0];
  for (uint w = 1; w < 4; w++) top = shared_sums[w] > top ? shared_sums[w] : top;
  const float keep = exp(largest[g] - top);
  if (lane == 0) shared_sums[4 + wave] = mass[g] * keep;
  for (uint i = 0; i < D / 32; i++) shared_parts[wave * D + lane * (D / 32) + i] = sum[g][i] * keep;
  BARRIER();
  const uint at = ((token * n_kv_head + kv_head) * G + g) * n_share + share;
  for (uint i = wave * 32 + lane; i < D; i += 128) {
    parts[at * D + i] = shared_parts[i] + shared_parts[D + i] + shared_parts[2 * D + i] + shared_parts[3 * D + i];
  }
  if (wave == 0 && lane == 0) {
    sums[2 * at] = top;
    sums[2 * at + 1] = shared_sums[4] + shared_sums[5] + shared_sums[6] + shared_sums[7];
  }
  BARRIER();
}
