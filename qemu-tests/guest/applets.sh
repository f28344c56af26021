# What busybox's applets make of the same input on any machine: nothing here depends on time, on process numbers or on the number of
# processors. Errors go to standard output, where they are compared.
exec 2>&1
cd /tmp

echo "-- find"
for a in 1 2 3 4 5; do
    mkdir -p "tree/$a"
    for b in 1 2 3 4; do
        echo "$a $b" > "tree/$a/file$b"
        ln -s "file$b" "tree/$a/link$b"
    done
done
find tree -type f | sort | md5sum
find tree -name 'file[23]' -exec cat {} \; | sort
find tree -type l | wc -l
du -a tree | wc -l
cp -a tree copy && diff -r tree copy && echo same
rm -r tree/3 && diff -r tree copy

echo "-- sort"
awk 'BEGIN { for (i = 0; i < 3000; i++) print (i * 7919) % 3001, "line", i }' > lines
sort -n lines | md5sum
sort -r lines | sha1sum
sort -k3 -n lines | cut -d ' ' -f 1 | head -n 5
sort -n lines | awk '{ print $1 % 10 }' | uniq | wc -l
tac lines | tail -n 3
wc lines

echo "-- gzip"
head -c 200000 /bin/busybox > data
md5sum data
for level in 1 6 9; do
    gzip -$level -c < data > data.gz
    gzip -d -c data.gz | sha256sum
    wc -c < data.gz
done
gzip -9 -c < data | zcat | cmp - data && echo same
tar -c -f - copy | gzip | tar -t -z -f - | sort | sha256sum
bzip2 -c lines > lines.bz2 && bzip2 -d -c lines.bz2 | md5sum
sha512sum data
sha3sum data
crc32 data
uuencode -m name < lines | sha1sum
base64 lines | base64 -d | cmp - lines && echo same
dd if=/dev/zero bs=4096 count=100 2> /dev/null | md5sum

echo "-- awk"
awk 'BEGIN {
    for (i = 1; i <= 3000; i++) { sum += 1 / i; squares += 1 / (i * i); turn = -turn + 4 / (2 * i - 1); part += i / 3 - int(i / 3) }
    printf "%.17g %.17g\n%.17g %.17g\n", sum, squares, turn, part
    printf "%d %d %.3f %e %g\n", 2147483646.9, -7 / 2, 1e10 / 3, 1e-310, 0.1 + 0.2
    print int(3.99), 10 % 3, 7.5 % 2, 1e308 * 10, -1e308 * 10
    x = 1; for (i = 0; i < 60; i++) { x = x * 3.7 * (1 - x / 4) } printf "%.17g\n", x
    n = 1; for (i = 1; i <= 25; i++) n *= i; printf "%.0f %s\n", n, n
}'
awk '{ count[$1 % 7] += $3 } END { for (i = 0; i < 7; i++) print i, count[i] }' lines
echo '2 ^ 300; 10 ^ 40 / 7; sqrt(2 ^ 90)' | bc
echo '20 k 2 v p 355 113 / p' | dc
expr 123456789 \* 987654321 % 1000003
factor 1234567890123 9007199254740881
printf '%x %o %e %s\n' 3735928559 511 1234.5 text
echo $((0x7fffffffffffffff + 1)) $((-7 % 3)) $((1 << 40 >> 3))

echo "-- text"
sed -n 's/^\([0-9]*\) line \([0-9]*\)5$/\2-\1/p' lines | md5sum
tr 'a-z0-9' 'b-za1-90' < lines | sha1sum
grep -c '9.*1' lines
grep -E -o '(12|34)+' lines | sort | uniq -c
od -A x -t x1 data | head -n 3
hexdump -C data | tail -n 2
seq -w 8 12 | tr '\n' ' '; echo
yes thimble | head -n 5000 | md5sum
printf 'b\na\nc\n' | sort | rev | tr -d '\n' | fold -w 2; echo
cut -c 1-4 lines | sort -u | wc -l

echo "-- processes"
# A storm: each child ends with a status of its own, and each is waited for.
total=0
for round in 1 2 3 4; do
    children=
    for child in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24; do
        (exit $((child * round % 50))) &
        children="$children $!"
    done
    for child in $children; do
        wait "$child"
        total=$((total + $?))
    done
done
echo "$total"
# Work for several processors at once.
for worker in 1 2 3 4; do
    (for i in 1 2 3; do sort -n lines | sha256sum > "out.$worker"; done) &
done
wait
cat out.1 out.2 out.3 out.4
# A deep chain of pipes, signals, and what a killed process leaves.
echo start | cat | cat | cat | cat | cat | cat | sed 's/start/end/'
{ sleep 100 & kill -TERM $!; wait $!; echo "$?"; } 2> /dev/null
sh -c 'kill -SEGV $$'; echo "$?"
mkfifo pipe && (echo through > pipe &) && cat pipe
