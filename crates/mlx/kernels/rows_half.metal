// Rows in 16 bits, each scaled so that f16 holds them: a row times `x_scales` is what it was, or its RMS norm, or a gate and what it
// lets through. Group: a row, 8 waves.
//
//   x [n_tok, n_in] f32    weight [n_in] f32 (NORM)    other f32 (GLU)    sizes [n_in, stride, begin]    factors [eps]
//   GLU: of x as a gate of `other`, 3 as gpt-oss defines it, factors [alpha, limit]; rows of both begin every `stride` numbers, those
//   of `other` after `begin`; without it stride is n_in
//   x_half, pairs; LAYOUT 0: f16 [n_tok, n_in], largest 1; 1: bf16 likewise, not scaled; 4 or 8: as `affine_tiles` reads
//   them for weights of so many bits, f16, largest 256: [n_tok / 8, n_in / 128 rounded up, 4, 8, 4, 8], token 8 a + d, column
//   128 b + 32 e + 8 c + f, the eight of f in the order in which weights fall out of a word.
//   x_scales [n_tok] f32
#define NUMBER(value, i) \
  float value = x[token * stride + (i)]; \
  if (GLU > 0) { \
    float through = other[token * stride + begin + (i)]; \
    GATED(value, through); \
    if (GLU == 3) { \
      through = through > factors[1] ? factors[1] : through < -factors[1] ? -factors[1] : through; \
      value = value > factors[1] ? factors[1] : value; \
      value *= (through + 1.0f) / (1.0f + exp(-factors[0] * value)); \
    } \
  }
const uint n_in = sizes[0], stride = sizes[1], begin = sizes[2], token = group_x, rank = wave * 32 + lane;
SHARED(float, shared_parts, 16);
float square = 0.0f, largest = 0.0f;
for (uint i = rank; i < n_in; i += 256) {
  NUMBER(value, i)
  square += value * value;
  if (NORM == 1) value *= weight[i];
  value = value < 0.0f ? -value : value;
  largest = value > largest ? value : largest;
}
square = simd_sum(square);
largest = simd_max(largest);
if (lane == 0) {
  shared_parts[wave] = square;
  shared_parts[8 + wave] = largest;
}
BARRIER();
square = 0.0f;
for (uint i = 0; i < 8; i++) {
  square += shared_parts[i];
  largest = shared_parts[8 + i] > largest ? shared_parts[8 + i] : largest;
}
const float span = LAYOUT < 2 ? 1.0f : 256.0f;
const float norm = NORM == 1 ? 1.0f / sqrt(square / float(n_in) + factors[0]) : 1.0f;
if (rank == 0) x_scales[token] = LAYOUT == 1 ? 1.0f : norm * largest / span;
const float inverse = LAYOUT == 1 ? norm : largest > 0.0f ? span / largest : 0.0f;
// What the last 128 columns lack are zeros.
const uint n_block = (n_in + 127) / 128;
for (uint run = rank; run < (LAYOUT < 2 ? n_in / 8 : 16 * n_block); run += 256) {
  float value[8];
  UNROLL
  for (uint i = 0; i < 8; i++) {
    value[i] = 0.0f;
    if (8 * run < n_in) {
      NUMBER(found, 8 * run + i)
      value[i] = found * inverse;
      if (NORM == 1) value[i] *= weight[8 * run + i];
    }
  }
  const uint block = run / 16, quad = run % 16 / 4, step = run % 4;
  const uint place = LAYOUT < 2 ? token * (n_in / 8) + run
                                : (((token / 8 * n_block + block) * 4 + step) * 8 + token % 8) * 4 + quad;
  UNROLL
  for (uint i = 0; i < 4; i++) {
    const uint low = LAYOUT < 2 ? 2 * i : LAYOUT == 4 ? i : i / 2 * 4 + i % 2;
    const uint high = LAYOUT < 2 ? low + 1 : LAYOUT == 4 ? i + 4 : low + 2;
    x_half[4 * place + i] = LAYOUT == 1 ? bfloat_pair(value[low], value[high]) : half_pair(value[low], value[high]);
  }
}
#undef NUMBER
