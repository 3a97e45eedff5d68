from repvit_dense.cli import main

if __name__ == '__main__':
    main('push')
