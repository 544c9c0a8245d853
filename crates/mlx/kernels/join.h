// What attention's shares have left becomes its output. For waves, each with a head; `n_head`, `n_share` and the arrays are the kernel's.
//
//   parts [n_tok, n_head, n_share, D] f32: weighted sums     sums [n_tok, n_head, n_share, 2]: the largest score, the weights' sum
//   sinks [n_head]: -1e30 for none; at most 128 shares       out [n_tok, n_head, D]
//   pairs: `out` as `rows_half` makes it, of LAYOUT (0: not), not scaled: attention weighs f16 values
//   FINISH   four numbers `x` of a head from `column` on, a multiple of four by lane, to their places
//   JOIN     a head of a token
#define FINISH(token, head, column, inside) \
  { \
    const uint to = ((token) * n_head + (head)) * D + (column), octet = ((head) * D + (column)) / 8; \
    if (inside) { \
      UNROLL \
      for (uint i = 0; i < 4; i++) out[to + i] = x[i]; \
    } \
    if (LAYOUT > 0) { \
      float other[4]; \
      UNROLL \
      for (uint i = 0; i < 4; i++) other[i] = simd_shuffle(x[i], lane ^ 1); \
      const uint place = \
          ((((token) / 8 * (n_head * D / 128) + octet / 16) * 4 + octet % 4) * 8 + (token) % 8) * 4 + octet % 16 / 4; \
      const bool odd = lane % 2 == 1; \
      if (inside) { \
        UNROLL \
        for (uint i = 0; i < 2; i++) { \
          const float low = LAYOUT == 8 || !odd ? x[i] : other[2 + i]; \
          const float high = LAYOUT == 8 || odd ? x[2 + i] : other[i]; \
          pairs[4 * place + 2 * (lane % 2) + i] = half_pair(low, high); \
        } \
      } \
    } \
  }
#define JOIN(token, head) \
  { \
    const uint at = ((token) * n_head + (head)) * n_share; \
    float own[4], top = sinks[head], mass = 0.0f; \
    UNROLL \
    for (uint j = 0; j < 4; j++) { \
      own[j] = 32 * j + lane < n_share ? sums[2 * (at + 32 * j + lane)] : -1e30f; \
      top = own[j] > top ? own[j] : top; \
    } \
    top = simd_max(top); \
    UNROLL \
    for (uint j = 0; j < 4; j++) { \
      if (32 * j + lane < n_share) mass += sums[2 * (at + 32 * j + lane) + 1] * exp(own[j] - top); \
    } \
    const float inverse = 1.0f / (simd_sum(mass) + exp(sinks[head] - top)); \
    for (uint turn = 0; turn < (D + 127) / 128; turn++) { \
      const uint column = 128 * turn + 4 * lane; \
      const bool inside = column < D; \
      float x[4] = {0.0f, 0.0f, 0.0f, 0.0f}; \
      for (uint begin = 0; begin < n_share; begin += 32) { \
        UNROLL \
        for (uint e = 0; e < 32; e++) { \
          const uint share = begin + e < n_share ? begin + e : n_share - 1; \
          const float keep = begin + e < n_share ? exp(sums[2 * (at + share)] - top) * inverse : 0.0f; \
          const uint4 four = LOAD4(parts, ((at + share) * D + (inside ? column : 0)) / 4); \
          x[0] += float_bits(four.x) * keep; \
          x[1] += float_bits(four.y) * keep; \
          x[2] += float_bits(four.z) * keep; \
          x[3] += float_bits(four.w) * keep; \
        } \
      } \
      FINISH(token, head, column, inside) \
    } \
  }
