// Up to 8 N rows times a transposed affine matrix, for GPUs that multiply 16 x 16 by 16 x 8 in one step: weights become f16 in
// the registers that the step reads, once for all rows. Group: 16 R rows of the matrix, or 16 of each of two (GLU), WAVES
// that share the columns, 128 at a time, of which a lane takes 32. Three matrices of the same columns are multiplied in one
// launch where PARTS is 3, the groups of one after those of the other.
//
//   x_half, x_scales: of `rows_half`, LAYOUT BITS, and sizes [n_tok]; or NORMED, where one row is to be multiplied: x [COLUMNS] f32
//   and the weight and factors of its RMS norm, of which every group makes the same for itself
//   w, w2, w3 [n_out, COLUMNS * BITS / 32] u32, of ROWS, ROWS2, ROWS3 rows: what a launch has to read first costs it as long as a
//   tenth of a small matrix takes, so that shapes are constants
//   scales, biases and those of w2, w3 [n_out, COLUMNS / GROUP]
//   residual [n_tok, n_out] f32 (ADD)                       y, y2, y3 [n_tok, n_out] f32
//   APPEND: w, w2, w3 make queries, keys and values of heads of HEAD, of which DIMS dimensions are rotated as in `rotate_append`; keys
//   and values go to their pages, y are the queries. The halves of the heads (PAIRED 0) meet in a group: half of its rows are
//   HEAD / 2 after the others.
//   GLU 1: silu(w x) * (w2 x), 2: gelu(w x) * (w2 x), then also y / 16 in `pairs` as `rows_half` makes them, of LAYOUT (0:
//   not). An f16 ends at 65504: beyond 16 times that `pairs` end too.
const uint n_tok = TOKENS, n_block = COLUMNS / 128, quad = lane % 4, line = lane / 4;
const uint n_row = GLU > 0 ? 16 : 16 * R;
uint part = 0, group = group_x;
if (PARTS == 3) {
  for (uint i = 0; i < 2; i++) {
    const uint n_group = (ROWS_OF(i) + n_row - 1) / n_row;
    if (part == i && group >= n_group) {
      part = i + 1;
      group -= n_group;
    }
  }
}
const uint n_out = ROWS_OF(part);
const uint in_head = PAIRED == 1 ? 1 : HEAD / n_row;
const uint row = PAIRED == 1 ? group * n_row : group / in_head * HEAD + group % in_head * (n_row / 2);
SHARED(float, shared_parts, WAVES * R * N * 128);
SHARED(float, shared_out, GLU > 0 ? 128 * N : APPEND == 1 ? 128 * N * R : 1);
SHARED(uint4, shared_x, NORMED == 1 ? COLUMNS / 8 : 1);
MATRIX(WAVES)
const uint rank = wave * 32 + lane;
uint at[R][2];
UNROLL
for (uint r = 0; r < R; r++) {
  UNROLL
  for (uint h = 0; h < 2; h++) {
    const uint wanted = row + (GLU > 0 ? 0 : PAIRED == 1 ? 16 * r : 8 * r) + (PAIRED == 1 ? 8 : HEAD / 2) * h + line;
    at[r][h] = wanted < n_out ? wanted : n_out - 1;
  }
}
// What a wave multiplies first is on its way while the row is normalized, and where it pays what it multiplies next while it multiplies.
uint next[R][2][BITS];
T next_scale[R][2], next_bias[R][2];
#define FETCH(block) \
  UNROLL \
  for (uint r = 0; r < R; r++) { \
    const uint from = GLU > 0 ? r : part; \
    (void)from; \
    UNROLL \
    for (uint h = 0; h < 2; h++) { \
      UNROLL \
      for (uint i = 0; i < BITS / 4; i++) { \
        const uint4 four = LOAD4(PICK(from, w, w2, w3), (at[r][h] * n_block + (block)) * BITS + quad * (BITS / 4) + i); \
        next[r][h][4 * i] = four.x; \
        next[r][h][4 * i + 1] = four.y; \
        next[r][h][4 * i + 2] = four.z; \
        next[r][h][4 * i + 3] = four.w; \
      } \
      if (RUN == 1) { \
        const uint of = at[r][h] * (COLUMNS / GROUP) + ((block) * 128 + quad * 32) / GROUP; \
        next_scale[r][h] = PICK(from, scales, scales2, scales3)[of]; \
        next_bias[r][h] = PICK(from, biases, biases2, biases3)[of]; \
      } \
    } \
  }
#define FETCH_NEXT \
  if (place + 1 < RUN) { \
    FETCH(block + 1) \
  } else if (run + WAVES < n_block / RUN) { \
    FETCH((run + WAVES) * RUN) \
  }
#define READ(step) \
  UNROLL \
  for (uint n = 0; n < N; n++) { \
    input[(step) % 2][n] = NORMED == 1 ? shared_x[(block * 4 + (step)) * 4 + quad] \
                                       : INPUT(int(start[n] + block * 128) + 32 * int(step)); \
  }
if (wave < n_block / RUN) { FETCH(wave * RUN) }
// Of two matrices, or of blocks that are no run, the registers cost more than it gains, by kernel times of an H200.
const bool ahead = RUN > 1 && N == 1 && GLU == 0;
float row_scale = 0.0f;
#if NORMED == 1
SHARED(float, shared_norm, 2 * WAVES);
{
  constexpr uint TURNS = (COLUMNS / 8 + 32 * WAVES - 1) / (32 * WAVES);
  float square = 0.0f, largest = 0.0f, value[TURNS][8];
  UNROLL
  for (uint turn = 0; turn < TURNS; turn++) {
    const uint octet = turn * 32 * WAVES + rank;
    UNROLL
    for (uint half_octet = 0; half_octet < 2; half_octet++) {
      const uint from = octet < COLUMNS / 8 ? 2 * octet + half_octet : 0;
      const uint4 four = LOAD4(x, from), other = LOAD4(weight, from);
      const uint numbers[4] = {four.x, four.y, four.z, four.w}, weights[4] = {other.x, other.y, other.z, other.w};
      UNROLL
      for (uint i = 0; i < 4; i++) {
        const float number = octet < COLUMNS / 8 ? float_bits(numbers[i]) : 0.0f;
        const float weighed = number * float_bits(weights[i]), magnitude = weighed < 0.0f ? -weighed : weighed;
        value[turn][4 * half_octet + i] = weighed;
        square += number * number;
        largest = magnitude > largest ? magnitude : largest;
      }
    }
  }
  square = simd_sum(square);
  largest = simd_max(largest);
  if (lane == 0) {
    shared_norm[wave] = square;
    shared_norm[WAVES + wave] = largest;
  }
  BARRIER();
  square = 0.0f;
  for (uint i = 0; i < WAVES; i++) {
    square += shared_norm[i];
    largest = shared_norm[WAVES + i] > largest ? shared_norm[WAVES + i] : largest;
  }
  const float inverse = largest > 0.0f ? 256.0f / largest : 0.0f;
  row_scale = largest / 256.0f / sqrt(square / float(COLUMNS) + EPSILON);
  UNROLL
  for (uint turn = 0; turn < TURNS; turn++) {
    const uint octet = turn * 32 * WAVES + rank, place = (octet / 16 * 4 + octet % 4) * 4 + octet % 16 / 4;
    if (octet < COLUMNS / 8) {
      UNROLL
      for (uint i = 0; i < 4; i++) {
        const uint low = BITS == 4 ? i : i / 2 * 4 + i % 2, high = low + (BITS == 4 ? 4 : 2);
        AS_WORDS(shared_x)[4 * place + i] = half_pair(value[turn][low] * inverse, value[turn][high] * inverse);
      }
    }
  }
  BARRIER();
}
#endif
// Where rows lie of which a lane reads; what follows the last is not read by anyone.
uint start[N];
UNROLL
for (uint n = 0; n < N; n++) {
  start[n] = n * n_block * 128 + lane;
}
float sum[R][N][4];
UNROLL
for (uint r = 0; r < R; r++) {
  UNROLL
  for (uint n = 0; n < N; n++) {
    UNROLL
    for (uint i = 0; i < 4; i++) sum[r][n][i] = 0.0f;
  }
}
// A wave takes RUN neighbouring blocks at a time. Of a run of eight groups a lane reads the scales of its rows at once, as numbers of
// 16 bits one by one take more of a multiprocessor's loads than the codes do.
ROLLED
for (uint run = wave; run < n_block / RUN; run += WAVES) {
  uint4 scales_run[R][2], biases_run[R][2];
  UNROLL
  for (uint r = 0; r < R; r++) {
    const uint from = GLU > 0 ? r : part;
    (void)from;
    UNROLL
    for (uint h = 0; h < 2; h++) {
      if (RUN > 1) {
        const uint of = (at[r][h] * n_block + run * RUN) / RUN;
        scales_run[r][h] = LOAD4(PICK(from, scales, scales2, scales3), of);
        biases_run[r][h] = LOAD4(PICK(from, biases, biases2, biases3), of);
      }
    }
  }
  UNROLL
  for (uint place = 0; place < RUN; place++) {
    const uint block = run * RUN + place;
    uint codes[R][2][BITS], scale[R][2], bias[R][2];
    UNROLL
    for (uint r = 0; r < R; r++) {
      UNROLL
      for (uint h = 0; h < 2; h++) {
        UNROLL
        for (uint i = 0; i < BITS; i++) codes[r][h][i] = next[r][h][i];
        if (RUN > 1) {
          const uint s[4] = {scales_run[r][h].x, scales_run[r][h].y, scales_run[r][h].z, scales_run[r][h].w};
          const uint b[4] = {biases_run[r][h].x, biases_run[r][h].y, biases_run[r][h].z, biases_run[r][h].w};
          // Two groups to a block, or four.
          const bool second = RUN == 2 && quad > 1;
          const uint shift = 16 * (RUN == 4 ? quad / 2 : quad % 2), first = RUN == 4 ? place : 2 * place % 4;
          scale[r][h] = twice(T(0.0f), (second ? s[(first + 1) % 4] : s[first]) >> shift & 0xffff);
          bias[r][h] = twice(T(0.0f), (second ? b[(first + 1) % 4] : b[first]) >> shift & 0xffff);
        } else {
          const float s = float(next_scale[r][h]), b = float(next_bias[r][h]);
          scale[r][h] = half_pair(s, s);
          bias[r][h] = half_pair(b, b);
        }
      }
    }
    if (ahead) { FETCH_NEXT }
    uint4 input[2][N];
    if (PARTS == 1) { READ(0) }
    UNROLL
    for (uint step = 0; step < 4; step++) {
      if (PARTS == 3) {
        READ(step)
      } else if (step < 3) {
        READ(step + 1)
      }
      UNROLL
      for (uint r = 0; r < R; r++) {
        uint pair[2][4];
        UNROLL
        for (uint h = 0; h < 2; h++) {
          UNROLL
          for (uint i = 0; i < 4; i++) {
            // A code under the exponent of 1024 is 1024 + code; four bits further up it is 1024 + 16 code.
            const bool up = BITS == 4 && i % 2 == 1;
            const uint word = BITS == 4 ? codes[r][h][step] >> (i / 2 * 8) : codes[r][h][2 * step % BITS + i / 2];
            const uint under = BITS == 4 ? masked(word, up ? 0x00f000f0 : 0x000f000f, 0x64006400)
                               : i % 2 == 0 ? bytes_even(word) : bytes_odd(word);
            const uint code = pair_fma(under, up ? 0x2c002c00 : 0x3c003c00, up ? 0xd400d400 : 0xe400e400);
            pair[h][i] = pair_fma(code, scale[r][h], bias[r][h]);
          }
        }
        UNROLL
        for (uint n = 0; n < N; n++) {
          MULTIPLY(sum[r][n], pair[0][0], pair[1][0], pair[0][1], pair[1][1], input[step % 2][n].x, input[step % 2][n].y);
          MULTIPLY(sum[r][n], pair[0][2], pair[1][2], pair[0][3], pair[1][3], input[step % 2][n].z, input[step % 2][n].w);
        }
      }
    }
    if (!ahead) { FETCH_NEXT }
  }
}
UNROLL
for (uint r = 0; r < R; r++) {
  UNROLL
  for (uint n = 0; n < N; n++) {
    UNROLL
    for (uint i = 0; i < 4; i++) shared_parts[((wave * R + r) * N + n) * 128 + 32 * i + lane] = sum[r][n][i];
  }
}
BARRIER();
for (uint i = rank; i < (GLU > 0 ? 1 : R) * N * 128; i += 32 * WAVES) {
  float total = 0.0f, second = 0.0f;
  for (uint p = 0; p < WAVES; p++) {
    total += shared_parts[p * R * N * 128 + i];
    if (GLU > 0) second += shared_parts[p * R * N * 128 + (R - 1) * N * 128 + i];
  }
  const uint token = i / 128 % N * 8 + 2 * (i % 4) + i / 32 % 2;
  const uint within = i / (128 * N) * 16 + i / 64 % 2 * 8 + i % 32 / 4;
  const uint at = row + (PAIRED == 1 ? within : within / 16 * 8 + within / 8 % 2 * (HEAD / 2) + within % 8);
  const bool inside = token < n_tok && at < n_out;
  if (inside) {
    total *= NORMED == 1 ? row_scale : SCALE(token);
    second *= NORMED == 1 ? row_scale : SCALE(token);
    GATED(total, second);
    total += ADDED(token * n_out + at);
    if (APPEND == 0) OUT(part, y, y2, y3)[token * n_out + at] = total;
  }
  if (APPEND == 1) shared_out[token * n_row + within] = inside ? total : 0.0f;
  if (GLU > 0) {
    const float most = 65504.0f * 16.0f;
    total = total > most ? most : total < -most ? -most : total;
    shared_out[token * 16 + at - row] = inside ? total / 16.0f : 0.0f;
  }
}
if (LAYOUT > 0) {
  BARRIER();
  for (uint i = rank; i < 64 * N; i += 32 * WAVES) {
    const uint token = i / 8, run = i % 8 / 4, column = row + 8 * run;
    const uint low = LAYOUT == 4 ? i % 4 : i % 4 / 2 * 4 + i % 2, high = low + (LAYOUT == 4 ? 4 : 2);
    const uint block = column / 128, step = column % 32 / 8;
    const uint place = (((token / 8 * (n_out / 128) + block) * 4 + step) * 8 + token % 8) * 4 + column % 128 / 32;
    if (token < n_tok) {
      PAIRS(4 * place + i % 4, half_pair(shared_out[token * 16 + 8 * run + low], shared_out[token * 16 + 8 * run + high]));
    }
  }
}
#if APPEND == 1
{
  BARRIER();
  for (uint i = rank; i < 8 * N * n_row; i += 32 * WAVES) {
    const uint token = i / n_row, within = i % n_row;
    const uint at = row + (PAIRED == 1 ? within : within / 16 * 8 + within / 8 % 2 * (HEAD / 2) + within % 8);
    const uint column = at % HEAD;
    if (token < n_tok) {
      float number = shared_out[i];
      if (part < 2 && column < DIMS) {
        const float partner = shared_out[token * n_row + (PAIRED == 1 ? within ^ 1 : within ^ 8)];
        const float angle = float(POSITION(token)) * TURN(PAIRED == 1 ? column / 2 : column % (HEAD / 2));
        const bool first = PAIRED == 1 ? column % 2 == 0 : column < HEAD / 2;
        number = number * cos(angle) + (first ? -partner : partner) * sin(angle);
      }
      KEEP(part, token * n_out + at, PLACE(token) * n_out + at, number);
    }
  }
  if (group_x == 0 && rank == 0) DONE();
}
#endif
#undef FETCH
#undef FETCH_NEXT
#undef READ
