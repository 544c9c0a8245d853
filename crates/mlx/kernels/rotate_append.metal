// Rotates queries and keys and stores keys and values in their pages. Group: a head of a token (queries', then keys', then
// values'), 1 wave.
//
//   q [n_tok, n_head, D]    k, v [n_tok, n_kv_head, D] f32    k_store, v_store [n_place, n_kv_head, D] f16, written
//   table, of the step (see `own::table`)                     turns [DIMS / 2]: radians a position
//   sizes [n_head, n_kv_head]                                 out [n_tok, n_head, D] f32
//   before, done [1]: of the append before this one and of this: whoever must come after an append takes its `done`, as
//   nobody sees from outside that it writes
//   PAIRED 1: neighbours form a pair, 0: the halves of the first DIMS
const uint n_head = sizes[0], n_kv_head = sizes[1], token = group_y, head = group_x;
const int position = table[4 * token], place = table[4 * token + 1];
const uint own = head < n_head ? head : head < n_head + n_kv_head ? head - n_head : head - n_head - n_kv_head;
const bool values = head >= n_head + n_kv_head;
const uint from = (token * (head < n_head ? n_head : n_kv_head) + own) * D;
const uint to = (uint(place) * n_kv_head + own) * D;
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
  if (head < n_head) {
    out[from + i] = number;
  } else if (values) {
    WRITE(v_store, half, to + i, number);
  } else {
    WRITE(k_store, half, to + i, number);
  }
}
if (token == 0 && head == 0 && lane == 0) done[0] = 0;
