// Runs kernels that were compiled from Metal texts: keeps buffers, and does what its standard input says.
//
// Lanes of a workgroup are fibres that run in turn. One that meets the others stops until all have come; that some never
// come is an error, as on a GPU.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <string>
#include <ucontext.h>
#include <vector>

using uint = uint32_t;
using Call = void (*)(void *const *args, const uint *sizes, const uint *group, uint lane);

constexpr size_t STACK = 64 << 10;
constexpr uint MOST_LANES = 256;

static ucontext_t scheduler, fibres[MOST_LANES];
static std::vector<char> stacks(STACK *MOST_LANES);
static float brought[MOST_LANES];
static uint current, lanes;
enum class Is { Running, Waiting, Done };
static Is states[MOST_LANES];

static struct {
    Call call;
    std::vector<void *> args;
    uint sizes[3], group[3];
} work;

[[noreturn]] static void fail(const std::string &reason) {
    std::fprintf(stderr, "%s\n", reason.c_str());
    std::exit(1);
}

void lanes_meet() {
    states[current] = Is::Waiting;
    swapcontext(&fibres[current], &scheduler);
}

float of_lane(float value, uint mask) {
    uint own = current;
    brought[own] = value;
    lanes_meet();
    float other = brought[own ^ mask];
    lanes_meet();
    return other;
}

static void fibre() {
    work.call(work.args.data(), work.sizes, work.group, current);
    states[current] = Is::Done;
}

static void run_group() {
    for (uint lane = 0; lane < lanes; lane++) {
        getcontext(&fibres[lane]);
        fibres[lane].uc_stack.ss_sp = &stacks[lane * STACK];
        fibres[lane].uc_stack.ss_size = STACK;
        fibres[lane].uc_link = &scheduler;
        makecontext(&fibres[lane], fibre, 0);
        states[lane] = Is::Waiting;
    }
    for (uint waiting = lanes; waiting > 0;) {
        waiting = 0;
        for (current = 0; current < lanes; current++) {
            states[current] = Is::Running;
            swapcontext(&scheduler, &fibres[current]);
            waiting += states[current] == Is::Waiting;
        }
        if (waiting != 0 && waiting != lanes) fail("a barrier that some lanes never reach");
    }
}

static void read_exactly(void *into, size_t bytes) {
    if (std::fread(into, 1, bytes, stdin) != bytes) std::exit(0);
}

static uint64_t number() {
    uint64_t n;
    read_exactly(&n, sizeof n);
    return n;
}

int main() {
    std::vector<std::vector<char>> buffers;
    std::vector<std::pair<Call, uint>> kernels;
    auto range = [&](uint64_t buffer, uint64_t offset, uint64_t bytes) {
        if (buffer >= buffers.size() || offset + bytes > buffers[buffer].size()) fail("a range outside of its buffer");
        return buffers[buffer].data() + offset;
    };
    for (;;) {
        switch (number()) {
        case 0: // A buffer.
            buffers.emplace_back(number());
            break;
        case 1: { // Bytes for a buffer.
            uint64_t buffer = number(), offset = number(), bytes = number();
            read_exactly(range(buffer, offset, bytes), bytes);
            break;
        }
        case 2: { // Bytes of a buffer.
            uint64_t buffer = number(), offset = number(), bytes = number();
            std::fwrite(range(buffer, offset, bytes), 1, bytes, stdout);
            std::fflush(stdout);
            break;
        }
        case 3: { // A library with the kernels from a number on, each with its lanes.
            std::string path(number(), ' ');
            read_exactly(path.data(), path.size());
            uint64_t count = number();
            void *library = dlopen(path.c_str(), RTLD_NOW);
            if (library == nullptr) fail(dlerror());
            for (uint64_t i = 0; i < count; i++) {
                std::string name = "kernel_" + std::to_string(kernels.size());
                void *symbol = dlsym(library, name.c_str());
                if (symbol == nullptr) fail(name + " is not in the library");
                kernels.emplace_back(reinterpret_cast<Call>(symbol), number());
            }
            break;
        }
        case 4: { // A launch: kernel, groups, sizes, arguments.
            uint64_t kernel = number(), groups[3];
            if (kernel >= kernels.size()) fail("a kernel that was never loaded");
            work.call = kernels[kernel].first;
            lanes = kernels[kernel].second;
            for (auto &n : groups) n = number();
            for (auto &n : work.sizes) n = number();
            work.args.resize(number());
            for (auto &arg : work.args) {
                uint64_t buffer = number(), offset = number(), bytes = number();
                arg = range(buffer, offset, bytes);
            }
            for (work.group[2] = 0; work.group[2] < groups[2]; work.group[2]++)
                for (work.group[1] = 0; work.group[1] < groups[1]; work.group[1]++)
                    for (work.group[0] = 0; work.group[0] < groups[0]; work.group[0]++) run_group();
            break;
        }
        default:
            fail("an unknown request");
        }
    }
}
