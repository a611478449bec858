// The content of known.rs.

export function known(length) {
    return Buffer.alloc(length, Buffer.from(Array.from({ length: 251 }, (_, at) => at)));
}
