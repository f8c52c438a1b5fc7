// Forward and backward passes of layers over flat arrays. T is the number of positions of an example; a matrix (T, n) is row
// major. A backward pass adds to the given gradients.

const EPSILON = 1e-5; // for every RMSNorm

// Matrix products compute four sums, or four terms of a sum, at once, so that arrays are read and written less often.

/** Y = X W^T: X (T, n), W (rows, n), Y (T, rows). */
export function linear(Y, X, W, T, n, rows) {
  const tiled = rows - (rows % 4);
  for (let t = 0; t < T; t++) {
    const x = t * n;
    const y = t * rows;
    for (let o = 0; o < tiled; o += 4) {
      const w = o * n;
      let a = 0;
      let b = 0;
      let c = 0;
      let d = 0;
      for (let i = 0; i < n; i++) {
        const value = X[x + i];
        a += W[w + i] * value;
        b += W[w + n + i] * value;
        c += W[w + 2 * n + i] * value;
        d += W[w + 3 * n + i] * value;
      }
      Y[y + o] = a;
      Y[y + o + 1] = b;
      Y[y + o + 2] = c;
      Y[y + o + 3] = d;
    }
    for (let o = tiled; o < rows; o++) {
      let sum = 0;
      for (let i = 0; i < n; i++) sum += W[o * n + i] * X[x + i];
      Y[y + o] = sum;
    }
  }
}

/** dX += dY W, dW += dY^T X: dX and X (T, n), dW and W (rows, n), dY (T, rows). */
export function linearBackward(dX, dW, dY, X, W, T, n, rows) {
  for (let t = 0; t < T; t++) addRows(dX, t * n, dY, t * rows, 1, W, n, rows);
  for (let o = 0; o < rows; o++) addRows(dW, o * n, dY, o, rows, X, n, T);
}

/** out[from + i] += sum over k < count of factors[first + k step] * M[k, i]: M (count, n). */
function addRows(out, from, factors, first, step, M, n, count) {
  const tiled = count - (count % 4);
  let at = first;
  for (let k = 0; k < tiled; k += 4) {
    const a = factors[at];
    const b = factors[at + step];
    const c = factors[at + 2 * step];
    const d = factors[at + 3 * step];
    at += 4 * step;
    if (a === 0 && b === 0 && c === 0 && d === 0) continue; // for example at a relu whose output is 0
    const m = k * n;
    for (let i = 0; i < n; i++) {
      out[from + i] += a * M[m + i] + b * M[m + n + i] + (c * M[m + 2 * n + i] + d * M[m + 3 * n + i]);
    }
  }
  for (let k = tiled; k < count; k++, at += step) {
    const a = factors[at];
    if (a === 0) continue;
    for (let i = 0; i < n; i++) out[from + i] += a * M[k * n + i];
  }
}

/** Y = X / sqrt(mean(X^2) + eps) for each row (T, n), and the factors (T,); Y may be X. */
export function rmsnorm(Y, scales, X, T, n) {
  for (let t = 0, row = 0; t < T; t++, row += n) {
    let sum = 0;
    for (let i = row; i < row + n; i++) sum += X[i] * X[i];
    const scale = (scales[t] = 1 / Math.sqrt(sum / n + EPSILON));
    for (let i = row; i < row + n; i++) Y[i] = X[i] * scale;
  }
}

/** dX += scale (dY - Y mean(dY Y)) for each row (T, n), from the norm's output Y. */
export function rmsnormBackward(dX, dY, Y, scales, T, n) {
  for (let t = 0, row = 0; t < T; t++, row += n) {
    let sum = 0;
    for (let i = row; i < row + n; i++) sum += dY[i] * Y[i];
    const mean = sum / n;
    for (let i = row; i < row + n; i++) dX[i] += scales[t] * (dY[i] - Y[i] * mean);
  }
}

/** Causal attention of every head: fills block.shares and block.mixed (T, E) from q, k, v. */
export function attention(block, T, E, heads) {
  const { q, k, v, shares, mixed } = block;
  const size = E / heads;
  const scale = 1 / Math.sqrt(size);
  mixed.fill(0, 0, T * E);
  for (let head = 0; head < heads; head++) {
    for (let t = 0; t < T; t++) {
      const row = (head * T + t) * T;
      const to = t * E + head * size;
      let largest = -Infinity;
      for (let s = 0; s <= t; s++) {
        const from = s * E + head * size;
        let dot = 0;
        for (let i = 0; i < size; i++) dot += q[to + i] * k[from + i];
        shares[row + s] = dot * scale;
        if (dot * scale > largest) largest = dot * scale;
      }
      let total = 0;
      for (let s = 0; s <= t; s++) total += shares[row + s] = Math.exp(shares[row + s] - largest);
      for (let s = 0; s <= t; s++) {
        const share = (shares[row + s] /= total);
        const from = s * E + head * size;
        for (let i = 0; i < size; i++) mixed[to + i] += share * v[from + i];
      }
    }
  }
}

/** Add to dq, dk, dv (T, E) from dmixed (T, E); dshares (T,) is scratch. */
export function attentionBackward(block, dq, dk, dv, dmixed, dshares, T, E, heads) {
  const { q, k, v, shares } = block;
  const size = E / heads;
  const scale = 1 / Math.sqrt(size);
  for (let head = 0; head < heads; head++) {
    for (let t = 0; t < T; t++) {
      const row = (head * T + t) * T;
      const to = t * E + head * size;
      let mean = 0; // sum over s of dshares[s] * shares[s]
      for (let s = 0; s <= t; s++) {
        const from = s * E + head * size;
        const share = shares[row + s];
        let dot = 0;
        for (let i = 0; i < size; i++) {
          dot += dmixed[to + i] * v[from + i];
          dv[from + i] += share * dmixed[to + i];
        }
        dshares[s] = dot;
        mean += dot * share;
      }
      for (let s = 0; s <= t; s++) {
        const from = s * E + head * size;
        const dscore = shares[row + s] * (dshares[s] - mean) * scale;
        for (let i = 0; i < size; i++) {
          dq[to + i] += dscore * k[from + i];
          dk[from + i] += dscore * q[to + i];
        }
      }
    }
  }
}

/** Replace the n logits from `start` on with their softmax; returns -log softmax[target]. */
export function crossEntropy(logits, start, n, target) {
  let largest = -Infinity;
  for (let i = start; i < start + n; i++) if (logits[i] > largest) largest = logits[i];
  let total = 0;
  for (let i = start; i < start + n; i++) total += logits[i] = Math.exp(logits[i] - largest);
  const scale = 1 / total;
  for (let i = start; i < start + n; i++) logits[i] *= scale;
  return -Math.log(logits[start + target]);
}
