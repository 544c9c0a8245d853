// What most types do not have.
#ifndef WORDS
#define WORDS 0
#endif
#ifndef AFFINE
#define AFFINE 0
#endif
#ifndef SHORTS
#define SHORTS 0
#endif
#ifndef TAIL
#define TAIL 0
#endif
#ifndef LEAST
#define LEAST 0
#endif
#ifndef FACTOR
#define FACTOR 1.0f
#endif
#ifndef AHEAD
#define AHEAD 0
#endif
#ifndef GRID
#define GRID 0
#endif
#ifndef TABLES
#define TABLES 0
#endif
