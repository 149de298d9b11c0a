// What kernels use of the Metal standard library, for a C++ compiler with `_Float16`: vectors, conversions, arithmetic,
// and lanes that meet (Metal Shading Language Specification 2.4, sections 2, 6.5 and 6.9). Address spaces are words
// without a meaning here.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#define kernel
#define device
#define constant const
#define threadgroup

using uint = uint32_t;
using half = _Float16;

// The host's: all lanes of a workgroup arrive; the value that another lane brought.
void lanes_meet();
float of_lane(float value, uint other_by_xor);

namespace metal {
using ::uint;

template <class T, int N> struct elements;
template <class T> struct elements<T, 2> { T x, y; };
template <class T> struct elements<T, 3> { T x, y, z; };
template <class T> struct elements<T, 4> { T x, y, z, w; };

template <class T, int N> struct alignas(sizeof(T) * (N == 3 ? 4 : N)) vec : elements<T, N> {
    vec() = default;
    explicit vec(T all) {
        for (int i = 0; i < N; i++) at(i) = all;
    }
    vec(T x, T y) {
        static_assert(N == 2, "two elements");
        at(0) = x, at(1) = y;
    }
    vec(T x, T y, T z) {
        static_assert(N == 3, "three elements");
        at(0) = x, at(1) = y, at(2) = z;
    }
    vec(T x, T y, T z, T w) {
        static_assert(N == 4, "four elements");
        at(0) = x, at(1) = y, at(2) = z, at(3) = w;
    }
    template <class U> explicit vec(const vec<U, N> &other) {
        for (int i = 0; i < N; i++) at(i) = static_cast<T>(other.at(i));
    }
    T &at(int i) { return (&this->x)[i]; }
    const T &at(int i) const { return (&this->x)[i]; }
};

using float2 = vec<float, 2>;
using float4 = vec<float, 4>;
using half2 = vec<half, 2>;
using half4 = vec<half, 4>;
using uint2 = vec<uint, 2>;
using uint3 = vec<uint, 3>;
using uint4 = vec<uint, 4>;

template <class T, int N, class F> auto each(const vec<T, N> &a, F f) {
    vec<decltype(f(a.x)), N> r;
    for (int i = 0; i < N; i++) r.at(i) = f(a.at(i));
    return r;
}
template <class T, int N, class F> auto each(const vec<T, N> &a, const vec<T, N> &b, F f) {
    vec<decltype(f(a.x, b.x)), N> r;
    for (int i = 0; i < N; i++) r.at(i) = f(a.at(i), b.at(i));
    return r;
}

#define ELEMENTWISE(op)                                                                                               \
    template <class T, int N> auto operator op(const vec<T, N> &a, const vec<T, N> &b) {                              \
        return each(a, b, [](T a, T b) { return a op b; });                                                           \
    }
ELEMENTWISE(+)
ELEMENTWISE(-)
ELEMENTWISE(*)
ELEMENTWISE(/)
ELEMENTWISE(%)
ELEMENTWISE(&)
ELEMENTWISE(|)
ELEMENTWISE(^)
ELEMENTWISE(<<)
ELEMENTWISE(>>)
ELEMENTWISE(<)
ELEMENTWISE(<=)
ELEMENTWISE(==)
#undef ELEMENTWISE
template <class T, int N> vec<T, N> operator-(const vec<T, N> &a) {
    return each(a, [](T a) { return -a; });
}

inline float fma(float a, float b, float c) { return std::fma(a, b, c); }
inline float exp(float a) { return std::exp(a); }
inline float tanh(float a) { return std::tanh(a); }
inline float sqrt(float a) { return std::sqrt(a); }
inline float rsqrt(float a) { return 1.0f / std::sqrt(a); }
inline float abs(float a) { return std::fabs(a); }
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline uint min(uint a, uint b) { return a < b ? a : b; }
inline uint max(uint a, uint b) { return a < b ? b : a; }

#define OF_VECTOR(f)                                                                                                  \
    template <class T, int N> vec<T, N> f(const vec<T, N> &a) {                                                       \
        return each(a, [](T a) { return f(a); });                                                                     \
    }
OF_VECTOR(exp)
OF_VECTOR(tanh)
OF_VECTOR(sqrt)
OF_VECTOR(rsqrt)
OF_VECTOR(abs)
#undef OF_VECTOR
#define OF_VECTORS(f)                                                                                                 \
    template <class T, int N> vec<T, N> f(const vec<T, N> &a, const vec<T, N> &b) {                                   \
        return each(a, b, [](T a, T b) { return f(a, b); });                                                          \
    }
OF_VECTORS(min)
OF_VECTORS(max)
#undef OF_VECTORS
template <int N> vec<float, N> fma(const vec<float, N> &a, const vec<float, N> &b, const vec<float, N> &c) {
    vec<float, N> r;
    for (int i = 0; i < N; i++) r.at(i) = fma(a.at(i), b.at(i), c.at(i));
    return r;
}
template <int N> float dot(const vec<float, N> &a, const vec<float, N> &b) {
    float sum = 0;
    for (int i = 0; i < N; i++) sum += a.at(i) * b.at(i);
    return sum;
}
template <class T, int N> vec<T, N> select(const vec<T, N> &no, const vec<T, N> &yes, const vec<bool, N> &which) {
    vec<T, N> r;
    for (int i = 0; i < N; i++) r.at(i) = which.at(i) ? yes.at(i) : no.at(i);
    return r;
}
template <class T> T select(T no, T yes, bool which) { return which ? yes : no; }

enum class mem_flags { mem_none, mem_device, mem_threadgroup };
inline mem_flags operator|(mem_flags a, mem_flags) { return a; }
inline void threadgroup_barrier(mem_flags) { lanes_meet(); }
inline float simd_shuffle_xor(float value, uint mask) { return of_lane(value, mask); }
} // namespace metal

using metal::float2;
using metal::float4;
using metal::half2;
using metal::half4;
using metal::uint2;
using metal::uint3;
using metal::uint4;

template <class To, class From> To as_type(const From &from) {
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}
