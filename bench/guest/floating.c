/* Floating point: matrix products with SSE2 and with AVX2 and FMA, and an n-body simulation. */
#include "micro.h"

#include <immintrin.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N 256

static double left[N][N] __attribute__((aligned(64)));
static double right[N][N] __attribute__((aligned(64)));
static double product[N][N] __attribute__((aligned(64)));

static void fill(void)
{
	uint64_t state = 0x94d049bb133111eb;

	for (unsigned i = 0; i < N; i++)
		for (unsigned j = 0; j < N; j++) {
			left[i][j] = (double)(next_random(&state) % 2048) / 1024 - 1;
			right[i][j] = (double)(next_random(&state) % 2048) / 1024 - 1;
		}
}

static uint64_t digest(void)
{
	uint64_t hash = 0;

	for (unsigned i = 0; i < N; i++)
		for (unsigned j = 0; j < N; j++) {
			uint64_t bits;

			memcpy(&bits, &product[i][j], sizeof bits);
			hash = hash * 31 + bits;
		}
	return hash;
}

uint64_t micro_matrix_sse2(unsigned long products)
{
	fill();
	for (unsigned long turn = 0; turn < products; turn++) {
		left[turn % N][turn * 7 % N] += 1;
		for (unsigned i = 0; i < N; i += 2)
			for (unsigned j = 0; j < N; j += 4) {
				__m128d a0 = _mm_setzero_pd(), a1 = a0, b0 = a0, b1 = a0;

				for (unsigned k = 0; k < N; k++) {
					__m128d r0 = _mm_load_pd(&right[k][j]), r1 = _mm_load_pd(&right[k][j + 2]);
					__m128d l0 = _mm_set1_pd(left[i][k]), l1 = _mm_set1_pd(left[i + 1][k]);

					a0 = _mm_add_pd(a0, _mm_mul_pd(l0, r0));
					a1 = _mm_add_pd(a1, _mm_mul_pd(l0, r1));
					b0 = _mm_add_pd(b0, _mm_mul_pd(l1, r0));
					b1 = _mm_add_pd(b1, _mm_mul_pd(l1, r1));
				}
				_mm_store_pd(&product[i][j], a0);
				_mm_store_pd(&product[i][j + 2], a1);
				_mm_store_pd(&product[i + 1][j], b0);
				_mm_store_pd(&product[i + 1][j + 2], b1);
			}
	}
	return digest();
}

__attribute__((target("avx2,fma"))) static void multiply_avx2(void)
{
	for (unsigned i = 0; i < N; i += 2)
		for (unsigned j = 0; j < N; j += 8) {
			__m256d a0 = _mm256_setzero_pd(), a1 = a0, b0 = a0, b1 = a0;

			for (unsigned k = 0; k < N; k++) {
				__m256d r0 = _mm256_load_pd(&right[k][j]), r1 = _mm256_load_pd(&right[k][j + 4]);
				__m256d l0 = _mm256_set1_pd(left[i][k]), l1 = _mm256_set1_pd(left[i + 1][k]);

				a0 = _mm256_fmadd_pd(l0, r0, a0);
				a1 = _mm256_fmadd_pd(l0, r1, a1);
				b0 = _mm256_fmadd_pd(l1, r0, b0);
				b1 = _mm256_fmadd_pd(l1, r1, b1);
			}
			_mm256_store_pd(&product[i][j], a0);
			_mm256_store_pd(&product[i][j + 4], a1);
			_mm256_store_pd(&product[i + 1][j], b0);
			_mm256_store_pd(&product[i + 1][j + 4], b1);
		}
}

uint64_t micro_matrix_avx2(unsigned long products)
{
	if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
		fprintf(stderr, "this CPU announces no AVX2 and FMA\n");
		exit(3);
	}
	fill();
	for (unsigned long turn = 0; turn < products; turn++) {
		left[turn % N][turn * 7 % N] += 1;
		multiply_avx2();
	}
	return digest();
}

/* A star and four planets, as scalar SSE2 code with square roots and divisions. */
#define BODIES 5

uint64_t micro_nbody(unsigned long thousand_steps)
{
	static double position[BODIES][3], speed[BODIES][3];
	static const double mass[BODIES] = { 40, 0.04, 0.01, 0.002, 0.0015 };
	const double step = 0.001;
	double energy = 0;
	uint64_t bits;

	for (unsigned i = 1; i < BODIES; i++) {
		position[i][0] = 3.0 * i;
		position[i][1] = 0.25 * i;
		position[i][2] = -0.125 * i;
		speed[i][1] = sqrt(mass[0] / (3.0 * i));
	}
	for (unsigned long turn = 0; turn < thousand_steps * 1000; turn++) {
		for (unsigned i = 0; i < BODIES; i++)
			for (unsigned j = i + 1; j < BODIES; j++) {
				double x = position[i][0] - position[j][0];
				double y = position[i][1] - position[j][1];
				double z = position[i][2] - position[j][2];
				double square = x * x + y * y + z * z;
				double factor = step / (square * sqrt(square));
				double of_i = mass[i] * factor, of_j = mass[j] * factor;

				speed[i][0] -= x * of_j;
				speed[i][1] -= y * of_j;
				speed[i][2] -= z * of_j;
				speed[j][0] += x * of_i;
				speed[j][1] += y * of_i;
				speed[j][2] += z * of_i;
			}
		for (unsigned i = 0; i < BODIES; i++)
			for (unsigned axis = 0; axis < 3; axis++)
				position[i][axis] += step * speed[i][axis];
	}
	for (unsigned i = 0; i < BODIES; i++)
		for (unsigned axis = 0; axis < 3; axis++)
			energy += mass[i] * speed[i][axis] * speed[i][axis] / 2;
	memcpy(&bits, &energy, sizeof bits);
	return bits;
}
