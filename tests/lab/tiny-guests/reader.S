# reader.S - a guest in one sector that reads what it is told to, and says so on its serial port.
#
# It reads 8 KiB at each of the sectors whose numbers (four bytes each, a zero at the end) stand at 0x100, and prints READ-ALL.
#
# as --32 -o reader.o reader.S; ld -m elf_i386 -Ttext 0x7c00 -e _start --oformat binary -o reader.bin reader.o
.code16
.global _start
_start:
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    cld
    sti
    movw $list, %bx
next:
    movl (%bx), %eax
    addw $4, %bx
    orl %eax, %eax
    jz done
    movl %eax, place
again:
    movw $packet, %si
    movb $0x42, %ah                 # INT 13h: extended read; DL is still the drive
    int $0x13
    jnc next
    hlt
    jmp again
done:
    movw $text, %si
say:
    lodsb
    orb %al, %al
    jz stay
    movw $0x3f8, %dx
    outb %al, %dx
    jmp say
stay:
    hlt
    jmp stay
text: .asciz "READ-ALL\n"
packet: .byte 16, 0
    .word 16
    .word 0x8000, 0
place: .long 0, 0
.org 0x100
list:
