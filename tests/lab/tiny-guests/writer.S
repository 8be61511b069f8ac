# writer.S - a guest in one sector that writes, and says on its serial port what was written.
#
# It counts its starts in sector 64. Then it writes blocks of 4 KiB one after the other, each full of a stamp: the number of
# the start in the highest byte, the number of the block below. When the BIOS says that a block is written, its stamp is
# printed as eight hexadecimal digits and a line feed; a "!" is a write that failed and is tried again, a "." the end.
#
# as --32 -o writer.o writer.S; ld -m elf_i386 -Ttext 0x7c00 -e _start --oformat binary -o writer.bin writer.o
.code16
.global _start
.set buffer, 0x8000
_start:
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    cld
    sti
    movb %dl, drive
    movb $0x42, function            # INT 13h: extended read
    call transfer
    incl buffer
    movb $0x43, function            # extended write
    call transfer
    movl buffer, %eax
    shll $24, %eax
    movl %eax, stamp
    movw $8, sectors
    movl first, %eax
    movl %eax, place
next:
    movl stamp, %eax
    movw $buffer, %di
    movw $1024, %cx
    rep stosl
    call transfer
    movl stamp, %edx
    movw $8, %cx
digit:
    roll $4, %edx
    movb %dl, %al
    andb $15, %al
    cmpb $10, %al
    jb decimal
    addb $7, %al
decimal:
    addb $'0', %al
    call put
    loop digit
    movb $'\n', %al
    call put
    incl stamp
    addl $8, place
    decl left
    jnz next
    movb $'.', %al
    call put
stay:
    hlt
    jmp stay

put:                                # AL to COM1
    pushw %dx
    movb %al, %ah
    movw $0x3fd, %dx
busy:
    inb %dx, %al
    testb $0x20, %al
    jz busy
    movw $0x3f8, %dx
    movb %ah, %al
    outb %al, %dx
    popw %dx
    ret

transfer:
    movw $packet, %si
    movb function, %ah
    xorb %al, %al
    movb drive, %dl
    int $0x13
    jnc done
    hlt
    movb $'!', %al
    call put
    jmp transfer
done:
    ret

.org 0x150                          # what the test fills in is at 0x160
packet: .byte 16, 0
sectors: .word 1
    .word buffer, 0
place: .long 64, 0
first: .long 0                      # the first block's first sector
left: .long 0                       # blocks
stamp: .long 0
drive: .byte 0
function: .byte 0
