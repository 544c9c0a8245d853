// Up to 8 N rows times a transposed matrix in the blocks of a GGUF type, of bitsandbytes or of MLX, laid out by `kernel::pack`: what `affine_tiles`
// does, with weights that a type's EIGHT unpacks (`blocks/*.h`). Group: 16 R rows of the matrix, 8 waves that share the columns, 256 at
// a time. Scales of parts of a super-block are whole numbers (exact in f16), what is common to all of it multiplies the sums.
//
//   x_half, x_scales: of `rows_half`, LAYOUT 4       w [n_out, STRIDE * 4] u32          codes: the type's codebook, u32
//   residual [n_tok, n_out] f32 (ADD)                sizes [n_tok, n_in, n_out]         y [n_tok, n_out] f32, n_tok <= 8 N
//   n_in is COLUMNS and n_out ROWS
//   EXPERTS: w is [n_expert, n_out, STRIDE * 4], n_tok rows of products are of the matrices that `experts` names, SHARE neighbours each
//   of one row of x; a group takes TILE <= 8 N of them in the order of `order`, one after the other those that have the same matrix; of
//   TILE 1 in their own. w2 like w: what groups of z 1 multiply, for y2
#define CODE(i) shared_codes[i]
// Shapes are constants where that pays, by kernel times of an H200.
const bool fixed = AHEAD == 0 && N < 3, ahead = AHEAD == 1 && N < 3;
const uint n_tok = sizes[0], n_in = fixed ? COLUMNS : sizes[1], n_out = fixed ? ROWS : sizes[2];
const uint n_block = (n_in + 127) / 128, n_super = (n_block + 1) / 2, quad = lane % 4, line = lane / 4;
const uint row = group_x * 16 * R, rank = wave * 32 + lane;
const uint first = EXPERTS == 1 ? group_y * TILE : 0, end = first + TILE < n_tok ? first + TILE : n_tok;
#if EXPERTS == 0
#define SHARE 1
#define PRODUCT(i) (i)
#define OUT(at, number) y[at] = number
#endif
#if EXPERTS == 1
// The group's products and their matrices.
SHARED(uint, shared_products, 64);
if (TILE > 1) {
  if (rank < end - first) {
    const uint product = order[first + rank];
    shared_products[rank] = product;
    shared_products[32 + rank] = experts[product];
  }
  BARRIER();
}
#define OUT(at, number) if (group_z == 0) y[at] = number; else y2[at] = number
#define PRODUCT(i) (TILE == 1 ? (i) : shared_products[(i) - first])
#define EXPERT(i) (TILE == 1 ? experts[i] : shared_products[32 + (i) - first])
#endif
SHARED(float, shared_parts, 8 * R * N * 128);
MATRIX(8)
#if TABLES == 1
TABLE(table, codes, 0);
#endif
#if TABLES == 2
TABLE(table, codes, 0);
TABLE(table2, codes, 1);
#endif
// Where rows lie of which a lane reads. The columns of no row are not read by anyone: let them be those of the last, if not constant.
uint place[N];
UNROLL
for (uint n = 0; n < N; n++) {
  const uint wanted = first + 8 * n + line, token = PRODUCT((fixed && EXPERTS == 0) || wanted < end ? wanted : end - 1) / SHARE;
  place[n] = token / 8 * n_block * 128 + 4 * (token % 8) + quad;
}
#define LOAD(super) \
  UNROLL \
  for (uint r = 0; r < R; r++) { \
    UNROLL \
    for (uint h = 0; h < 2; h++) { \
      TAKE(next[r][h], from[r][h], super, quad) \
      next[r][h][NUMBERS] = TAIL > 0 ? FACTORS(from[r][h], super) : 0; \
    } \
  }
#define READ(k) \
  UNROLL \
  for (uint n = 0; n < N; n++) { \
    const uint wanted = 2 * super + (k) / 4; \
    const int at = int(place[n] + (wanted < n_block ? wanted : n_block - 1) * 128); \
    input[(k) % 2][n] = LOAD4(x_half, at + 32 * int((k) % 4)); \
  }
#if EXPERTS == 1
uint until = first;
for (uint begin = first; begin < end; begin = until) {
const uint matrix = EXPERT(begin);
for (until = begin + 1; until < end && EXPERT(until) == matrix; until++) {}
#endif
#if EXPERTS == 0
const uint matrix = 0, begin = first, until = end;
#endif
uint from[R][2];
float sum[R][N][4];
UNROLL
for (uint r = 0; r < R; r++) {
  UNROLL
  for (uint h = 0; h < 2; h++) {
    const uint wanted = row + 16 * r + 8 * h + line;
    from[r][h] = (matrix * n_out + (wanted < n_out ? wanted : n_out - 1)) * STRIDE;
  }
  UNROLL
  for (uint n = 0; n < N; n++) {
    UNROLL
    for (uint i = 0; i < 4; i++) sum[r][n][i] = 0.0f;
  }
}
// A lane's numbers of a super-block and its factors, of the two rows of each 16 that a lane reads. The first are on their way while
// the codebook is read.
uint next[R][2][NUMBERS + 1];
if ((fixed || ahead) && wave < n_super) { LOAD(wave) }
#if GRID == 1
SHARED(uint, shared_codes, CODES);
if (begin == first) {
  for (uint i = rank; i < CODES / 4; i += 256) {
    const uint4 four = LOAD4(codes, i);
    shared_codes[4 * i] = four.x;
    shared_codes[4 * i + 1] = four.y;
    shared_codes[4 * i + 2] = four.z;
    shared_codes[4 * i + 3] = four.w;
  }
  BARRIER();
}
#endif
ROLLED
for (uint super = wave; super < n_super; super += 8) {
  uint numbers[R][2][NUMBERS + 1];
  float part[R][N][4], less[R][N][4];
  if (!fixed && !ahead) { LOAD(super) }
  UNROLL
  for (uint r = 0; r < R; r++) {
    UNROLL
    for (uint h = 0; h < 2; h++) {
      UNROLL
      for (uint i = 0; i <= NUMBERS; i++) numbers[r][h][i] = next[r][h][i];
    }
    UNROLL
    for (uint n = 0; n < N; n++) {
      UNROLL
      for (uint i = 0; i < 4; i++) part[r][n][i] = less[r][n][i] = 0.0f;
    }
  }
  if (ahead && super + 8 < n_super) { LOAD(super + 8) }
  // What a row lacks of its last super-block has scales of zero.
  uint4 input[2][N];
  READ(0)
  UNROLL
  for (uint k = 0; k < 8; k++) {
    const uint half_block = k / 4, step = k % 4;
    if (k < 7) { READ(k + 1) }
    UNROLL
    for (uint r = 0; r < R; r++) {
      uint pairs[2][4], leasts[2];
      UNROLL
      for (uint h = 0; h < 2; h++) {
        uint pair[4], least = 0;
        EIGHT(numbers[r][h], half_block, step)
        UNROLL
        for (uint i = 0; i < 4; i++) pairs[h][i] = pair[i];
        leasts[h] = least;
      }
      UNROLL
      for (uint n = 0; n < N; n++) {
        MULTIPLY(part[r][n], pairs[0][0], pairs[1][0], pairs[0][1], pairs[1][1], input[k % 2][n].x, input[k % 2][n].y);
        MULTIPLY(part[r][n], pairs[0][2], pairs[1][2], pairs[0][3], pairs[1][3], input[k % 2][n].z, input[k % 2][n].w);
        if (LEAST == 1) {
          MULTIPLY(less[r][n], leasts[0], leasts[1], leasts[0], leasts[1], input[k % 2][n].x, input[k % 2][n].y);
          MULTIPLY(less[r][n], leasts[0], leasts[1], leasts[0], leasts[1], input[k % 2][n].z, input[k % 2][n].w);
        }
      }
    }
  }
  UNROLL
  for (uint r = 0; r < R; r++) {
    UNROLL
    for (uint n = 0; n < N; n++) {
      UNROLL
      for (uint i = 0; i < 4; i++) {
        const uint factors = numbers[r][i / 2][NUMBERS];
        sum[r][n][i] += TAIL > 0 ? FACTOR * half_bits(factors & 0xffff) * part[r][n][i] : FACTOR * part[r][n][i];
        if (LEAST == 1) sum[r][n][i] -= half_bits(factors >> 16) * less[r][n][i];
      }
    }
  }
  if (fixed && super + 8 < n_super) { LOAD(super + 8) }
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
for (uint i = rank; i < R * N * 128; i += 256) {
  float total = 0.0f;
  for (uint p = 0; p < 8; p++) total += shared_parts[p * R * N * 128 + i];
  const uint which = first + i / 128 % N * 8 + 2 * (i % 4) + i / 32 % 2;
  const uint at = row + i / (128 * N) * 16 + i / 64 % 2 * 8 + i % 32 / 4;
  if (which >= begin && which < until && at < n_out) {
    const uint product = PRODUCT(which), to = product * n_out + at;
    OUT(to, total * x_scales[product / SHARE] + ADDED(to));
  }
}
#if EXPERTS == 1
BARRIER();
}
#endif
#undef CODE
#undef SHARE
#undef OUT
#undef PRODUCT
#undef EXPERT
#undef LOAD
#undef READ
