// SPDX-License-Identifier: Apache-2.0
// The inverse of a square matrix, which every kernels_<isa>.cc compiles for itself, inside its anonymous namespace:
// sums keep their order, so all give the same bits.

// `a` [n][n] becomes its inverse: Gauss-Jordan with row pivoting (Numerical Recipes 2.1), in place. False if it is
// singular, or nearly.
bool invert(double* a, size_t n) {
  constexpr double kSmallest = 1e-12;  // of the largest element
  double largest = 0;
  for (size_t i = 0; i < n * n; ++i) largest = __builtin_fabs(a[i]) > largest ? __builtin_fabs(a[i]) : largest;
  constexpr size_t kMostRows = 1024;
  uint32_t swapped[kMostRows];
  if (n > kMostRows) return false;
  for (size_t k = 0; k < n; ++k) {
    size_t pivot = k;
    for (size_t i = k + 1; i < n; ++i) {
      if (__builtin_fabs(a[i * n + k]) > __builtin_fabs(a[pivot * n + k])) pivot = i;
    }
    swapped[k] = static_cast<uint32_t>(pivot);
    double* __restrict row = a + k * n;
    for (size_t j = 0; j < n && pivot != k; ++j) {
      const double other = a[pivot * n + j];
      a[pivot * n + j] = row[j];
      row[j] = other;
    }
    if (!(__builtin_fabs(row[k]) > kSmallest * largest)) return false;
    const double inverse = 1 / row[k];
    row[k] = 1;
    for (size_t j = 0; j < n; ++j) row[j] *= inverse;
    for (size_t i = 0; i < n; ++i) {
      if (i == k) continue;
      double* __restrict from = a + i * n;
      const double factor = from[k];
      from[k] = 0;
      for (size_t j = 0; j < n; ++j) from[j] -= factor * row[j];
    }
  }
  for (size_t k = n; k-- > 0;) {
    for (size_t i = 0; i < n && swapped[k] != k; ++i) {
      const double other = a[i * n + k];
      a[i * n + k] = a[i * n + swapped[k]];
      a[i * n + swapped[k]] = other;
    }
  }
  return true;
}
