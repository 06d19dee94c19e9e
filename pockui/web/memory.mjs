/** What the page keeps in this browser: the weights, and the drawings that were named. Nothing leaves it. */

const STORE = "kept";

function opened(name) {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(name, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** A place of its own for each artefact; `put` writes all or nothing. */
export class Memory {
  #database;

  static async open(fingerprint) {
    const memory = new Memory();
    memory.#database = await opened(`pockui ${fingerprint}`);
    return memory;
  }

  get(key) {
    return done(this.#database.transaction(STORE).objectStore(STORE).get(key));
  }

  put(values) {
    const transaction = this.#database.transaction(STORE, "readwrite");
    for (const [key, value] of Object.entries(values)) transaction.objectStore(STORE).put(value, key);
    return new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve();
      transaction.onerror = transaction.onabort = () => reject(transaction.error);
    });
  }

  clear() {
    return done(this.#database.transaction(STORE, "readwrite").objectStore(STORE).clear());
  }
}
