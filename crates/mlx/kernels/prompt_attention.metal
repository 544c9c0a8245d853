// Attention of rows with many tokens, straight on their pages: scores and weighted sums are matrix products (FlashAttention-2,
// arXiv:2307.08691). Group: (KV head, tile), 4 waves of 16 queries; a query is a head of a token, so that a tile has up to 64 / G
// neighbouring tokens of a row. KEYS keys and values at a time lie in the threadgroup's memory, while registers already take the
// next ones.
//
//   q, k, v, table, factors, sinks: of `paged_attention`, its pages of PAGE tokens
//   tiles [n_tile, 2]: first token, tokens
//   sizes [n_kv_head, window (0 full, 1 sliding, 2 chunked), its tokens, token that `out` begins with]
//   out [n_run, n_kv_head * G, D] f32
//   Q8 1: k, v i8, and k_scales, v_scales [n_place, n_kv_head] f32; D a multiple of 64
//
// Which 16 dimensions, or keys, a step multiplies is free as long as both sides agree. A lane takes 16 bytes at once: of a key
// eight neighbouring dimensions of each 32, of a dimension the keys 8 i + 2 c and 8 i + 2 c + 1 for each i (c its column), in whose
// order values are laid down.
constexpr uint KEYS = D > 128 ? 16 : 32, TILES = KEYS / 8;
constexpr uint LINE = D / 8 % 8 == 4 ? D / 8 : D / 8 + 4;
// Numbers of 16 bytes.
#if Q8 == 0
constexpr uint N = 8;
#endif
#if Q8 == 1
constexpr uint N = 16;
SHARED(float, shared_scales, 2 * KEYS);
float next_scale = 0.0f;
#endif
constexpr uint K_LOADS = KEYS * D / N / 128, V_ALL = KEYS / 2 * D / N, V_LOADS = (V_ALL + 127) / 128;
const uint n_kv_head = sizes[0], window = sizes[1], n_window = sizes[2];
const uint kv_head = group_x, first = uint(tiles[2 * group_y]), n_tok = uint(tiles[2 * group_y + 1]);
const uint pages = uint(table[4 * first + 3]), slot_first = uint(table[4 * first + 2]);
const uint rank = wave * 32 + lane, quad = lane % 4, line = lane / 4;
SHARED(uint4, shared_k, KEYS * LINE);
SHARED(uint4, shared_v, D * 4);
MATRIX(4)

// The two queries of this lane's accumulators: their token, and the slots that they see.
uint own[2], from[2], query[D / 32][2][4];
UNROLL
for (uint h = 0; h < 2; h++) {
  const uint m = wave * 16 + line + 8 * h, token = m / G < n_tok ? m / G : n_tok - 1;
  own[h] = slot_first + token;
  from[h] = window == 0 ? 0 : window == 2 ? own[h] / n_window * n_window : own[h] + 1 > n_window ? own[h] + 1 - n_window : 0;
  const uint at = (((first + token) * n_kv_head + kv_head) * G + m % G) * D + 8 * quad;
  UNROLL
  for (uint s = 0; s < D / 32; s++) {
    UNROLL
    for (uint i = 0; i < 4; i++) query[s][h][i] = half_pair(q[at + 32 * s + 2 * i], q[at + 32 * s + 2 * i + 1]);
  }
}
const uint from_first = window == 0 ? 0
                      : window == 2 ? slot_first / n_window * n_window
                      : slot_first + 1 > n_window ? slot_first + 1 - n_window : 0;
const uint to = slot_first + n_tok;
const float cap = factors[1];
float sum[D / 8][4], largest[2] = {-1e30f, -1e30f}, mass[2] = {0.0f, 0.0f};
UNROLL
for (uint n = 0; n < D / 8; n++) {
  UNROLL
  for (uint i = 0; i < 4; i++) sum[n][i] = 0.0f;
}
uint4 next_k[K_LOADS], next_v[V_LOADS][2];
for (uint base = from_first / KEYS * KEYS, turn = 0; base < to + KEYS; base += KEYS, turn++) {
  if (turn > 0) {
    BARRIER();
    UNROLL
    for (uint i = 0; i < K_LOADS; i++) {
      const uint load = i * 128 + rank;
#if Q8 == 0
      shared_k[load / (D / 8) * LINE + load % (D / 8)] = next_k[i];
#endif
#if Q8 == 1
      const uint four[4] = {next_k[i].x, next_k[i].y, next_k[i].z, next_k[i].w};
      UNROLL
      for (uint j = 0; j < 4; j++) {
        const uint word = four[j] ^ 0x80808080, to_word = 4 * (load / (D / 16) * LINE + load % (D / 16) * 2) + 2 * j;
        AS_WORDS(shared_k)[to_word] = INTEGERS(bytes_low(word));
        AS_WORDS(shared_k)[to_word + 1] = INTEGERS(bytes_high(word));
      }
#endif
    }
#if Q8 == 1
    if (rank < 2 * KEYS) shared_scales[rank] = next_scale;
#endif
    UNROLL
    for (uint i = 0; i < V_LOADS; i++) {
      const uint load = i * 128 + rank < V_ALL ? i * 128 + rank : V_ALL - 1;
      const uint pair = load % (KEYS / 2), octet = load / (KEYS / 2);
      const uint low[4] = {next_v[i][0].x, next_v[i][0].y, next_v[i][0].z, next_v[i][0].w};
      const uint high[4] = {next_v[i][1].x, next_v[i][1].y, next_v[i][1].z, next_v[i][1].w};
      UNROLL
      for (uint j = 0; j < 4; j++) {
        const uint to_word = (octet * N + N / 4 * j) * 16 + pair % 4 * 4 + pair / 4;
#if Q8 == 0
        AS_WORDS(shared_v)[to_word] = (low[j] & 0xffff) | high[j] << 16;
        AS_WORDS(shared_v)[to_word + 16] = low[j] >> 16 | (high[j] & 0xffff0000);
#endif
#if Q8 == 1
        const uint left = low[j] ^ 0x80808080, right = high[j] ^ 0x80808080;
        const uint both[2] = {zip_low(left, right), zip_high(left, right)};
        UNROLL
        for (uint b = 0; b < 2; b++) {
          AS_WORDS(shared_v)[to_word + 32 * b] = INTEGERS(bytes_low(both[b]));
          AS_WORDS(shared_v)[to_word + 32 * b + 16] = INTEGERS(bytes_high(both[b]));
        }
#endif
      }
    }
    BARRIER();
  }
  if (base < to) {
    UNROLL
    for (uint i = 0; i < K_LOADS; i++) {
      const uint load = i * 128 + rank, wanted = base + load / (D / N), slot = wanted < to ? wanted : to - 1;
      const uint place = uint(table[pages + slot / PAGE]) * PAGE + slot % PAGE;
      next_k[i] = LOAD4(k, (place * n_kv_head + kv_head) * (D / N) + load % (D / N));
    }
#if Q8 == 1
    if (rank < 2 * KEYS) {
      const uint wanted = base + rank % KEYS, slot = wanted < to ? wanted : to - 1;
      const uint at = (uint(table[pages + slot / PAGE]) * PAGE + slot % PAGE) * n_kv_head + kv_head;
      next_scale = rank < KEYS ? k_scales[at] : v_scales[at];
    }
#endif
    UNROLL
    for (uint i = 0; i < V_LOADS; i++) {
      const uint load = i * 128 + rank < V_ALL ? i * 128 + rank : V_ALL - 1;
      UNROLL
      for (uint j = 0; j < 2; j++) {
        const uint wanted = base + 2 * (load % (KEYS / 2)) + j, slot = wanted < to ? wanted : to - 1;
        const uint place = uint(table[pages + slot / PAGE]) * PAGE + slot % PAGE;
        next_v[i][j] = LOAD4(v, (place * n_kv_head + kv_head) * (D / N) + load / (KEYS / 2));
      }
    }
  }
  if (turn == 0) continue;
  const uint tile = base - KEYS;
  float score[TILES][4];
  UNROLL
  for (uint n = 0; n < TILES; n++) {
    UNROLL
    for (uint i = 0; i < 4; i++) score[n][i] = 0.0f;
    UNROLL
    for (uint s = 0; s < D / 32; s++) {
      const uint4 four = shared_k[(8 * n + line) * LINE + 4 * s + quad];
      MULTIPLY(score[n], query[s][0][0], query[s][1][0], query[s][0][1], query[s][1][1], four.x, four.y);
      MULTIPLY(score[n], query[s][0][2], query[s][1][2], query[s][0][3], query[s][1][3], four.z, four.w);
    }
  }
  uint weight[TILES][2];
  float keep[2];
  UNROLL
  for (uint h = 0; h < 2; h++) {
    float top = -1e30f;
    UNROLL
    for (uint n = 0; n < TILES; n++) {
      UNROLL
      for (uint i = 0; i < 2; i++) {
        const uint slot = tile + 8 * n + 2 * quad + i;
        float number = score[n][2 * h + i] * factors[0];
#if Q8 == 1
        number *= shared_scales[8 * n + 2 * quad + i];
#endif
        if (cap > 0.0f) number = cap * tanh(number / cap);
        number = slot >= from[h] && slot <= own[h] ? number : -1e30f;
        score[n][2 * h + i] = number;
        top = number > top ? number : top;
      }
    }
    top = lanes_max(top, 4);
    top = largest[h] > top ? largest[h] : top;
    keep[h] = exp(largest[h] - top);
    largest[h] = top;
    mass[h] *= keep[h];
    UNROLL
    for (uint n = 0; n < TILES; n++) {
      float part[2];
      UNROLL
      for (uint i = 0; i < 2; i++) {
        const float number = score[n][2 * h + i];
        part[i] = number > -1e30f ? exp(number - top) : 0.0f;
        mass[h] += part[i];
#if Q8 == 1
        part[i] *= 64.0f * shared_scales[KEYS + 8 * n + 2 * quad + i];
#endif
      }
      weight[n][h] = half_pair(part[0], part[1]);
    }
  }
  UNROLL
  for (uint n = 0; n < D / 8; n++) {
    UNROLL
    for (uint i = 0; i < 4; i++) sum[n][i] *= keep[i / 2];
    const uint4 four = shared_v[(8 * n + line) * 4 + quad];
    MULTIPLY(sum[n], weight[0][0], weight[0][1], weight[1][0], weight[1][1], four.x, four.y);
    if (TILES == 4) {
      MULTIPLY(
          sum[n],
          weight[TILES - 2][0],
          weight[TILES - 2][1],
          weight[TILES - 1][0],
          weight[TILES - 1][1],
          four.z,
          four.w);
    }
  }
}
UNROLL
for (uint h = 0; h < 2; h++) {
  const uint m = wave * 16 + line + 8 * h, token = m / G, head = kv_head * G + m % G;
  const float total = lanes_sum(mass[h], 4), sink = sinks[head];
  const float top = largest[h] > sink ? largest[h] : sink, keep = exp(largest[h] - top);
#if Q8 == 0
  const float factor = keep / (total * keep + exp(sink - top));
#endif
#if Q8 == 1
  const float factor = 0.015625f * keep / (total * keep + exp(sink - top));
#endif
  if (token < n_tok) {
    const uint at = ((first + token - sizes[3]) * n_kv_head * G + head) * D + 2 * quad;
    UNROLL
    for (uint n = 0; n < D / 8; n++) {
      out[at + 8 * n] = sum[n][2 * h] * factor;
      out[at + 8 * n + 1] = sum[n][2 * h + 1] * factor;
    }
  }
}
