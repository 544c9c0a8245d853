// Attention of one token's queries over a share of its KV slots, all query heads of a KV head at once: each key and
// value is read once. Group: (KV head, token, share), 4 waves. A lane takes E dimensions, 16 bytes of f16 where D allows, so
// that D / E lanes hold a slot; each such team takes four slots at a time, so that their loads overlap, and keeps a softmax
// of its own that runs along (Milakov and Gimelshein, arXiv:1805.02867). Teams are joined at the end, shares by
// `attention_merge`.
//
//   q [n_tok, n_kv_head * G, D]     k, v [n_place, n_kv_head, D]    table, of the step (see `own::table`)
//   sizes [n_kv_head, n_share, page_tokens, window (0 full, 1 sliding, 2 chunked), its tokens, first token]
//   factors [scale, cap]: cap 0 for none                            sinks [n_kv_head * G]: -1e30 for none
//   parts [n_run, n_kv_head * G, n_share, D]: weighted sums, or with one share the outputs themselves
//   sums [.., 2]: largest score, sum of exponentials
//   Q8 1: k, v i8, and k_scales, v_scales [n_place, n_kv_head] f32; a lane takes 16 dimensions of two slots then
#if Q8 == 0
constexpr uint E = D == 64 || D == 128 || D == 256 ? 8 : D / 32, SLOTS = 4;
#endif
#if Q8 == 1
constexpr uint E = 16, SLOTS = 2;
#endif
constexpr uint TEAM = D / E, TEAMS = 32 / TEAM;
const uint n_kv_head = sizes[0], n_share = sizes[1], page_tokens = sizes[2];
const uint kv_head = group_x, share = group_z, token = group_y + sizes[5];
const uint slot_own = uint(table[4 * token + 2]), pages = uint(table[4 * token + 3]);
const uint from = sizes[3] == 0 ? 0 : sizes[3] == 2 ? slot_own / sizes[4] * sizes[4]
                : slot_own + 1 > sizes[4] ? slot_own + 1 - sizes[4] : 0;
const uint to = slot_own + 1, length = (to - from + n_share - 1) / n_share;
const uint first = from + share * length;
const uint last = first + length < to ? first + length : to;
const uint team = lane / TEAM, at_lane = lane % TEAM * E;
const float cap = factors[1];
SHARED(float, shared_parts, 4 * TEAMS * D);
SHARED(float, shared_sums, 8 * TEAMS);

float query[G][E], sum[G][E], largest[G], mass[G];
UNROLL
for (uint g = 0; g < G; g++) {
  largest[g] = -1e30f;
  mass[g] = 0.0f;
  UNROLL
  for (uint i = 0; i < E; i++) {
    query[g][i] = q[((token * n_kv_head + kv_head) * G + g) * D + at_lane + i] * factors[0];
    sum[g][i] = 0.0f;
  }
}
for (uint base = first; base < last; base += 4 * SLOTS * TEAMS) {
  float key[SLOTS][E], value[SLOTS][E], key_scale[SLOTS], value_scale[SLOTS];
  UNROLL
  for (uint s = 0; s < SLOTS; s++) {
    const uint wanted = base + (wave * SLOTS + s) * TEAMS + team, slot = wanted < last ? wanted : last - 1;
    const uint place = uint(table[pages + slot / page_tokens]) * page_tokens + slot % page_tokens;
    const uint at = (place * n_kv_head + kv_head) * D + at_lane;
#if Q8 == 1
    const uint4 four = LOAD4(k, at / 16), other = LOAD4(v, at / 16);
    const uint keys[4] = {four.x, four.y, four.z, four.w}, values[4] = {other.x, other.y, other.z, other.w};
    key_scale[s] = k_scales[place * n_kv_head + kv_head];
    value_scale[s] = v_scales[place * n_kv_head + kv_head];
    UNROLL
    for (uint i = 0; i < E; i++) {
      key[s][i] = float(int(keys[i / 4] << (24 - 8 * (i % 4))) >> 24);
      value[s][i] = float(int(values[i / 4] << (24 - 8 * (i % 4))) >> 24);
    }
#endif
#if Q8 == 0
    key_scale[s] = 1.0f;
    value_scale[s] = 1.0f;
    if (E == 8) {
      const uint4 four = LOAD4(k, at / 8), other = LOAD4(v, at / 8);
      const uint keys[4] = {four.x, four.y, four.z, four.w}, values[4] = {other.x, other.y, other.z, other.w};
      UNROLL
      for (uint i = 0; i < 4; i++) {
        key[s][2 * i % E] = pair_low(keys[i]);
        key[s][(2 * i + 1) % E] = pair_high(keys[i]);
        value[s][2 * i % E] = pair_low(values[i]);
        value[s][(2 * i + 1) % E] = pair_high(values[i]);
      }
    } else {
      UNROLL
      for (uint i = 0; i < E; i++) {
        key[s][i] = float(k[at + i]);
        value[s][i] = float(v[at + i]);
      }
    }
#endif
  }
  UNROLL
  for (uint g = 0; g < G; g++) {
    float score[SLOTS], top = largest[g];
    UNROLL
    for (uint s = 0; s < SLOTS; s++) {
      float part = 0.0f;
      UNROLL
      for (uint i = 0; i < E; i++) part += query[g][i] * key[s][i];
      score[s] = lanes_sum(part, TEAM) * key_scale[s];
      if (cap > 0.0f) score[s] = cap * tanh(score[s] / cap);
      if (base + (wave * SLOTS + s) * TEAMS + team >= last) score[s] = -1e30f;
      top = score[s] > top ? score[s] : top;
    }
    const float keep = exp(largest[g] - top);
    largest[g] = top;
    mass[g] *= keep;
    UNROLL
    for (uint i = 0; i < E; i++) sum[g][i] *= keep;
    UNROLL
    for (uint s = 0; s < SLOTS; s++) {
      const float weight = score[s] > -1e30f ? exp(score[s] - top) : 0.0f, scaled = weight * value_scale[s];
      mass[g] += weight;
      UNROLL
      for (uint i = 0; i < E; i++) sum[g][i] += scaled * value[s][i];
    }
  }
}
const uint rank = wave * 32 + lane, n_team = 4 * TEAMS;
UNROLL
for (uint g = 0; g < G; g++) {
  const uint head = kv_head * G + g;
  if (at_lane == 0) {
    shared_sums[wave * TEAMS + team] = largest[g];
    shared_sums[n_team + wave * TEAMS + team] = mass[g];
  }
  UNROLL
  for (uint i = 0; i < E; i++) shared_parts[(wave * TEAMS + team) * D + at_lane + i] = sum[g][i];
  BARRIER();
  float top = n_share == 1 ? sinks[head] : -1e30f;
  for (uint t = 0; t < n_team; t++) top = shared_sums[t] > top ? shared_sums[t] : top;
  float total = n_share == 1 ? exp(sinks[head] - top) : 0.0f;
  for (uint t = 0; t < n_team; t++) total += shared_sums[n_team + t] * exp(shared_sums[t] - top);
  const uint at = ((group_y * n_kv_head * G) + head) * n_share + share;
  for (uint i = rank; i < D; i += 128) {
    float joined = 0.0f;
    for (uint t = 0; t < n_team; t++) joined += shared_parts[t * D + i] * exp(shared_sums[t] - top);
    parts[at * D + i] = n_share == 1 ? joined / total : joined;
  }
  if (rank == 0) {
    sums[2 * at] = top;
    sums[2 * at + 1] = total;
  }
  BARRIER();
}
