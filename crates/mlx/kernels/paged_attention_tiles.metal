// `paged_attention` for GPUs that multiply 16 x 16 by 16 x 8 in one step: scores and weighted sums are such products of keys and
// values as they come from memory, so that little more than their reading is left (FlashAttention-2, arXiv:2307.08691;
// Flash-Decoding for the shares). Group: (KV head, token, share), 4 waves; a wave takes 16 slots of a page at a time, its next
// keys and values on their way while it computes. The last group of a token and KV head that gets to its end joins the shares.
//
//   q, table, factors, sinks: of `paged_attention`; pages of PAGE tokens, a multiple of 16; HEADS KV heads
//   k, v [n_place, HEADS, D] f16; Q8 1: i8, and k_scales, v_scales [n_place, HEADS] f32, D 128 or 256
//   sizes [n_share, window, its tokens, first token]      arrived [n_tok, HEADS]: zeros, before and after
//   out, pairs, parts, sums: of `join.h`, parts and sums of more than one share
//   ALONE: the batch is this token, of at least 64 slots a share, so that where its pages are listed is known
//
// Reading what tells where to read is what a short launch waits for, so that shares lie between each other: the first page of each
// is read before the sequence's length is there. Queries are rows of products, at most 8 of 16; a lane's slots are 8 n + 2 c + j, c its
// column. Which dimensions a step multiplies is free: a lane takes 16 bytes of a key, and 16 bytes of values of each of its slots,
// whose dimensions become rows. Scales belong to slots: a key's multiplies its score, a value's its weight, 64 times of it, so that
// f16 holds small ones.
#if Q8 == 0
constexpr uint K_LOADS = D / 32, V_LOADS = D / 64;
#endif
#if Q8 == 1
constexpr uint K_LOADS = D / 64, V_LOADS = D / 128;
float key_scale[4], value_scale[4];
#endif
const uint n_share = sizes[0], n_head = HEADS * G, kv_head = group_x, share = group_z, quad = lane % 4, line = lane / 4;
const uint token = ALONE == 1 ? 0 : group_y + sizes[3], slot_own = uint(table[4 * token + 2]);
const uint pages = ALONE == 1 ? 4 : uint(table[4 * token + 3]), ahead = 16 * (4 * share + wave), stride = 64 * n_share;
const uint likely = ALONE == 1 ? uint(table[4 + ahead / PAGE]) : 0;
const uint from = sizes[1] == 0 ? 0 : sizes[1] == 2 ? slot_own / sizes[2] * sizes[2]
                : slot_own + 1 > sizes[2] ? slot_own + 1 - sizes[2] : 0;
const uint first = from / 16 * 16 + ahead, last = slot_own + 1;
const float cap = factors[1];
SHARED(float, shared_parts, 4 * G * D);
SHARED(float, shared_sums, 64);
SHARED(uint, shared_last, 1);
MATRIX(4)

uint query[D / 16][2];
UNROLL
for (uint t = 0; t < D / 16; t++) {
#if Q8 == 0
  const uint dim = t / 2 * 32 + 8 * quad + t % 2 * 4;
#endif
#if Q8 == 1
  const uint dim = t / 4 * 64 + 16 * quad + t % 4 * 4;
#endif
  const uint at = ((token * HEADS + kv_head) * G + (line < G ? line : 0)) * D + dim;
  UNROLL
  for (uint i = 0; i < 2; i++) query[t][i] = line < G ? half_pair(q[at + 2 * i], q[at + 2 * i + 1]) : 0;
}
float sum[D / 16][4], largest = -1e30f, mass = 0.0f;
UNROLL
for (uint t = 0; t < D / 16; t++) {
  UNROLL
  for (uint i = 0; i < 4; i++) sum[t][i] = 0.0f;
}
uint4 key[2][K_LOADS], value[4][V_LOADS];
// The page of the slots to come next is known before they are asked for.
uint page = first >= last ? 0 : ALONE == 1 && first == ahead ? likely : uint(table[pages + first / PAGE]);
for (uint base = first, turn = 0; base < last + stride; base += stride, turn++) {
  const uint tile = base - stride, place = page * PAGE + base % PAGE, most = base < last ? last - 1 - base : 0;
  page = base + stride < last ? uint(table[pages + (base + stride) / PAGE]) : 0;
  float score[2][4];
  UNROLL
  for (uint n = 0; n < 2; n++) {
    UNROLL
    for (uint i = 0; i < 4; i++) score[n][i] = 0.0f;
    if (turn > 0) {
      UNROLL
      for (uint s = 0; s < K_LOADS; s++) {
        const uint words[4] = {key[n][s].x, key[n][s].y, key[n][s].z, key[n][s].w};
#if Q8 == 0
        UNROLL
        for (uint i = 0; i < 2; i++) {
          MULTIPLY(score[n], query[2 * s + i][0], 0, query[2 * s + i][1], 0, words[2 * i], words[2 * i + 1]);
        }
#endif
#if Q8 == 1
        UNROLL
        for (uint i = 0; i < 4; i++) {
          const uint word = words[i] ^ 0x80808080;
          const uint left = INTEGERS(bytes_low(word)), right = INTEGERS(bytes_high(word));
          MULTIPLY(score[n], query[4 * s + i][0], 0, query[4 * s + i][1], 0, left, right);
        }
#endif
      }
    }
    if (base < last) {
      const uint wanted = 8 * n + line, at = (place + (wanted < most ? wanted : most)) * HEADS + kv_head;
      UNROLL
#if Q8 == 0
      for (uint s = 0; s < K_LOADS; s++) key[n][s] = LOAD4(k, at * (D / 8) + 4 * s + quad);
#endif
#if Q8 == 1
      for (uint s = 0; s < K_LOADS; s++) key[n][s] = LOAD4(k, at * (D / 16) + 4 * s + quad);
#endif
    }
  }
  if (turn > 0) {
    float top = largest;
    UNROLL
    for (uint i = 0; i < 4; i++) {
      const uint slot = tile + i / 2 * 8 + 2 * quad + i % 2;
#if Q8 == 0
      float number = score[i / 2][i % 2] * factors[0];
#endif
#if Q8 == 1
      float number = score[i / 2][i % 2] * (factors[0] * key_scale[i]);
#endif
      if (cap > 0.0f) number = cap * tanh(number / cap);
      number = slot >= from && slot < last ? number : -1e30f;
      score[i / 2][i % 2] = number;
      top = number > top ? number : top;
    }
    top = lanes_max(top, 4);
    const float keep = exp(largest - top);
    largest = top;
    mass *= keep;
    float weight[4];
    UNROLL
    for (uint i = 0; i < 4; i++) {
      const float number = score[i / 2][i % 2];
      weight[i] = number > -1e30f ? exp(number - top) : 0.0f;
      mass += weight[i];
#if Q8 == 1
      weight[i] *= 64.0f * value_scale[i];
#endif
    }
    const uint left = half_pair(weight[0], weight[1]), right = half_pair(weight[2], weight[3]);
    const float keeps[2] = {simd_shuffle(keep, 8 * quad), simd_shuffle(keep, 8 * quad + 4)};
    UNROLL
    for (uint m = 0; m < V_LOADS; m++) {
      uint words[4][4];
      UNROLL
      for (uint j = 0; j < 4; j++) {
        words[j][0] = value[j][m].x;
        words[j][1] = value[j][m].y;
        words[j][2] = value[j][m].z;
        words[j][3] = value[j][m].w;
      }
#if Q8 == 0
      UNROLL
      for (uint i = 0; i < 4; i++) {
        const uint t = 4 * m + i;
        uint pair[2][2];
        UNROLL
        for (uint n = 0; n < 2; n++) {
          const uint low = words[2 * n][i], high = words[2 * n + 1][i];
          pair[n][0] = (low & 0xffff) | high << 16;
          pair[n][1] = low >> 16 | (high & 0xffff0000);
        }
        UNROLL
        for (uint j = 0; j < 4; j++) sum[t][j] *= keeps[j % 2];
        MULTIPLY(sum[t], pair[0][0], pair[0][1], pair[1][0], pair[1][1], left, right);
      }
#endif
#if Q8 == 1
      UNROLL
      for (uint i = 0; i < 4; i++) {
        uint both[2][2];
        UNROLL
        for (uint n = 0; n < 2; n++) {
          const uint low = words[2 * n][i] ^ 0x80808080, high = words[2 * n + 1][i] ^ 0x80808080;
          both[n][0] = zip_low(low, high);
          both[n][1] = zip_high(low, high);
        }
        UNROLL
        for (uint h = 0; h < 2; h++) {
          const uint t = 8 * m + 2 * i + h;
          UNROLL
          for (uint j = 0; j < 4; j++) sum[t][j] *= keeps[j % 2];
          MULTIPLY(sum[t], INTEGERS(bytes_low(both[0][h])), INTEGERS(bytes_high(both[0][h])), INTEGERS(bytes_low(both[1][h])),
                   INTEGERS(bytes_high(both[1][h])), left, right);
        }
      }
#endif
    }
  }
  if (base < last) {
    UNROLL
    for (uint i = 0; i < 4; i++) {
      const uint wanted = i / 2 * 8 + 2 * quad + i % 2, at = (place + (wanted < most ? wanted : most)) * HEADS + kv_head;
      UNROLL
#if Q8 == 0
      for (uint m = 0; m < V_LOADS; m++) value[i][m] = LOAD4(v, at * (D / 8) + 8 * m + line);
#endif
#if Q8 == 1
      for (uint m = 0; m < V_LOADS; m++) value[i][m] = LOAD4(v, at * (D / 16) + 8 * m + line);
      key_scale[i] = k_scales[at];
      value_scale[i] = v_scales[at];
#endif
    }
  }
}
mass = lanes_sum(mass, 4);
if (quad == 0) {
  shared_sums[wave * 8 + line] = largest;
  shared_sums[32 + wave * 8 + line] = mass;
}
UNROLL
for (uint t = 0; t < D / 16; t++) {
#if Q8 == 0
  const uint dim = t / 4 * 64 + 8 * line + t % 4 * 2;
#endif
#if Q8 == 1
  const uint dim = t / 8 * 128 + 16 * line + t % 8 * 2;
#endif
  UNROLL
  for (uint i = 0; i < 4; i++) {
    const uint g = 2 * quad + i % 2;
#if Q8 == 1
    sum[t][i] *= 0.015625f;
#endif
    if (g < G) shared_parts[(wave * G + g) * D + dim + i / 2] = sum[t][i];
  }
}
BARRIER();
for (uint g = wave; g < G; g += 4) {
  const uint head = kv_head * G + g, at = (group_y * n_head + head) * n_share + share;
  float keep[4], top = n_share == 1 ? sinks[head] : -1e30f;
  UNROLL
  for (uint w = 0; w < 4; w++) top = shared_sums[w * 8 + g] > top ? shared_sums[w * 8 + g] : top;
  float total = n_share == 1 ? exp(sinks[head] - top) : 0.0f;
  UNROLL
  for (uint w = 0; w < 4; w++) {
    keep[w] = exp(shared_sums[w * 8 + g] - top);
    total += shared_sums[32 + w * 8 + g] * keep[w];
  }
  const float inverse = n_share == 1 ? 1.0f / total : 1.0f;
  for (uint turn = 0; turn < (D + 127) / 128; turn++) {
    const uint column = 128 * turn + 4 * lane;
    const bool inside = column < D;
    float x[4];
    UNROLL
    for (uint i = 0; i < 4; i++) {
      x[i] = 0.0f;
      UNROLL
      for (uint w = 0; w < 4; w++) x[i] += shared_parts[(w * G + g) * D + (inside ? column + i : 0)] * keep[w];
      x[i] *= inverse;
      if (n_share > 1 && inside) parts[at * D + column + i] = x[i];
    }
    if (n_share == 1) FINISH(group_y, head, column, inside)
  }
  if (n_share > 1 && lane == 0) {
    sums[2 * at] = top;
    sums[2 * at + 1] = total;
  }
}
if (n_share > 1) {
  BARRIER();
  if (wave * 32 + lane == 0) shared_last[0] = LAST(arrived, group_y * HEADS + kv_head, n_share) ? 1 : 0;
  BARRIER();
  if (shared_last[0] == 1) {
    for (uint g = wave; g < G; g += 4) JOIN(group_y, kv_head * G + g)
  }
}
