// Joins the shares of `paged_attention`, see `join.h`. Group: (head, token), 1 wave.
//
//   sizes [n_head, n_share]
const uint n_head = sizes[0], n_share = sizes[1];
JOIN(group_y, group_x)
