// CPython's random.Random: the same seed gives the same numbers. MT19937 is by Matsumoto and Nishimura (1998); the methods
// follow Modules/_randommodule.c and Lib/random.py of Python 3.11.

const SIZE = 624; // number of words in the state
const SHIFT = 397;
const UPPER = 0x80000000;
const LOWER = 0x7fffffff;
const MATRIX = 0x9908b0df;

export class PythonRandom {
  /** @param {number | bigint} seed a non-negative integer; if it is a number, less than 2^53 */
  constructor(seed) {
    this.state = new Uint32Array(SIZE);
    this.index = SIZE;
    /** @type {number | null} the second value of `gauss`, kept for the next call */
    this.nextGauss = null;
    this.seed(BigInt(seed));
  }

  /** @param {bigint} seed */
  seed(seed) {
    const key = [];
    for (let rest = seed; rest > 0n || key.length === 0; rest >>= 32n) key.push(Number(rest & 0xffffffffn));
    this.seedByArray(key);
  }

  /** @param {number[]} key words of 32 bits, lowest first (init_by_array) */
  seedByArray(key) {
    const state = this.state;
    state[0] = 19650218;
    for (let i = 1; i < SIZE; i++) {
      state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
    }
    let i = 1;
    const previous = () => state[i - 1] ^ (state[i - 1] >>> 30);
    const advance = () => {
      i += 1;
      if (i < SIZE) return;
      state[0] = state[SIZE - 1];
      i = 1;
    };
    for (let n = 0; n < Math.max(SIZE, key.length); n++) {
      const j = n % key.length;
      state[i] = (state[i] ^ Math.imul(previous(), 1664525)) + key[j] + j;
      advance();
    }
    for (let n = 1; n < SIZE; n++) {
      state[i] = (state[i] ^ Math.imul(previous(), 1566083941)) - i;
      advance();
    }
    state[0] = UPPER;
    this.index = SIZE;
    this.nextGauss = null;
  }

  /** Return the next 32 bits of the generator. */
  bits32() {
    const state = this.state;
    if (this.index === SIZE) {
      for (let i = 0; i < SIZE; i++) {
        const y = (state[i] & UPPER) | (state[(i + 1) % SIZE] & LOWER);
        state[i] = state[(i + SHIFT) % SIZE] ^ (y >>> 1) ^ (y & 1 ? MATRIX : 0);
      }
      this.index = 0;
    }
    let y = state[this.index++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  /** Return a number in [0, 1) with 53 random bits. */
  random() {
    const high = this.bits32() >>> 5;
    return (high * 67108864 + (this.bits32() >>> 6)) / 9007199254740992;
  }

  /** @param {number} count number of bits, 1 to 32 */
  getrandbits(count) {
    return this.bits32() >>> (32 - count);
  }

  /** Return an integer in [0, n), 1 <= n < 2^32 (_randbelow). */
  below(n) {
    const count = 32 - Math.clz32(n);
    let found = this.getrandbits(count);
    while (found >= n) found = this.getrandbits(count);
    return found;
  }

  /** Permute an array in place. */
  shuffle(array) {
    for (let i = array.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [array[i], array[j]] = [array[j], array[i]];
    }
  }

  /** Return a number from a normal distribution, equal to Python's up to the last bits of log, sin and cos. */
  gauss(mean, deviation) {
    let z = this.nextGauss;
    this.nextGauss = null;
    if (z === null) {
      const angle = this.random() * 2 * Math.PI;
      const radius = Math.sqrt(-2 * Math.log(1 - this.random()));
      z = Math.cos(angle) * radius;
      this.nextGauss = Math.sin(angle) * radius;
    }
    return mean + z * deviation;
  }

  /** Return the same index as `choices(range(n), weights)[0]`. @param {ArrayLike<number>} weights (n,) */
  choice(weights) {
    const upTo = new Float64Array(weights.length);
    let total = 0;
    for (let i = 0; i < weights.length; i++) upTo[i] = total += weights[i];
    const target = this.random() * total;
    let low = 0;
    let high = weights.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (target < upTo[middle]) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}
