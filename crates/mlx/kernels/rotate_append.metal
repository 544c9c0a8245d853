// Rotates queries and keys and stores keys and values in their pages. Group: a head of a token (queries', then keys', then
// values'), 1 wave.
//
//   q [n_tok, n_head, D]    k, v [n_tok, n_kv_head, D] f32    k_store, v_store [n_place, n_kv_head, D] f16, written
//   table, of the step (see `own::table`)                     turns [DIMS / 2]: radians a position
//   sizes [n_head, n_kv_head]                                 out [n_tok, n_head, D] f32
//   before, done [1]: of the append before this one and of this: whoever must come after an append takes its `done`, as
//   nobody sees from outside that it writes
//   Q8 1: k_store, v_store i8, and k_scales, v_scales [n_place, n_kv_head] f32, written: 127 is a head's largest magnitude
//   PAIRED 1: neighbours form a pair, 0: the halves of the first DIMS
const uint n_head = sizes[0], n_kv_head = sizes[1], token = group_y, head = group_x;
const int position = table[4 * token], place = table[4 * token + 1];
const uint own = head < n_head ? head : head < n_head + n_kv_head ? head - n_head : head - n_head - n_kv_head;
const bool values = head >= n_head + n_kv_head;
const uint from = (token * (head < n_head ? n_head : n_kv_head) + own) * D;
const uint to = (uint(place) * n_kv_head + own) * D;
#if Q8 == 1
float all[D / 32], largest = 0.0f;
#endif
for (uint i = lane; i < D; i += 32) {
  float number = values ? v[from + i] : head < n_head ? q[from + i] : k[from + i];
  if (!values && i < DIMS) {
    const uint pair = PAIRED == 1 || i < DIMS / 2 ? i >> PAIRED : i - DIMS / 2;
    const uint other = PAIRED == 1 ? i ^ 1 : i < DIMS / 2 ? i + DIMS / 2 : i - DIMS / 2;
    const float partner = head < n_head ? q[from + other] : k[from + other];
    const float angle = float(position) * turns[pair];
    const bool first = PAIRED == 1 ? i % 2 == 0 : i < DIMS / 2;
    number = number * cos(angle) + (first ? -partner : partner) * sin(angle);
  }
#if Q8 == 0
  if (head < n_head) {
    out[from + i] = number;
  } else if (values) {
    WRITE(v_store, half, to + i, number);
  } else {
    WRITE(k_store, half, to + i, number);
  }
#endif
#if Q8 == 1
  if (head < n_head) out[from + i] = number;
  all[i / 32] = number;
  const float size = number < 0.0f ? -number : number;
  largest = size > largest ? size : largest;
#endif
}
#if Q8 == 1
largest = simd_max(largest);
if (head >= n_head) {
  const float scale = largest / 127.0f, inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
  for (uint i = lane; i < D; i += 32) {
    const int code = int(rint(all[i / 32] * inverse));
    if (values) {
      WRITE(v_store, i8, to + i, code);
    } else {
      WRITE(k_store, i8, to + i, code);
    }
  }
  if (lane == 0 && values) WRITE(v_scales, float, to / D, scale);
  if (lane == 0 && !values) WRITE(k_scales, float, to / D, scale);
}
#endif
if (token == 0 && head == 0 && lane == 0) done[0] = 0;
