// Logits of llama.cpp for the tokens of a golden file: prints the squared error over the squared magnitude.
//
//     g++ -O1 -std=c++17 -I LLAMA/include -I LLAMA/ggml/include llama_logits.cpp -L LIBRARIES -lllama -lggml -lggml-base
//     llama_logits MODEL.gguf golden.logits
//
// Format of the golden file: i32 n, i32 v, n token ids (i32), n * v f32. Everything is computed in f32.
#include <cstdio>
#include <vector>

#include "llama.h"

int main(int argc, char ** argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: llama_logits MODEL.gguf golden.logits\n");
        return 2;
    }
    FILE * file = fopen(argv[2], "rb");
    int head[2];
    if (!file || fread(head, 4, 2, file) != 2) {
        fprintf(stderr, "%s: no golden file\n", argv[2]);
        return 2;
    }
    const int n = head[0], v = head[1];
    std::vector<int> ids(n);
    std::vector<float> want((size_t) n * v);
    if (fread(ids.data(), 4, n, file) != (size_t) n || fread(want.data(), 4, want.size(), file) != want.size()) {
        fprintf(stderr, "%s: it is cut\n", argv[2]);
        return 2;
    }
    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level >= GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
    }, nullptr);
    llama_backend_init();
    llama_model_params model_params = llama_model_default_params();
    llama_model * model = llama_model_load_from_file(argv[1], model_params);
    if (!model) return 1;
    llama_context_params params = llama_context_default_params();
    params.n_ctx = 256;
    params.n_batch = params.n_ubatch = 64;
    params.n_threads = params.n_threads_batch = 1;
    params.type_k = params.type_v = GGML_TYPE_F32;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    llama_context * context = llama_init_from_model(model, params);
    if (!context) return 1;
    llama_batch batch = llama_batch_init(n, 0, 1);
    batch.n_tokens = n;
    for (int i = 0; i < n; i++) {
        batch.token[i] = ids[i];
        batch.pos[i] = i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = 1;
    }
    if (llama_decode(context, batch)) return 1;
    double error = 0, magnitude = 0;
    for (int i = 0; i < n; i++) {
        const float * got = llama_get_logits_ith(context, i);
        for (int j = 0; j < v; j++) {
            const double w = want[(size_t) i * v + j], d = got[j] - w;
            error += d * d;
            magnitude += w * w;
        }
    }
    printf("%.3e\n", error / magnitude);
    return 0;
}
