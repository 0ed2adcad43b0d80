"""`python -m benchmarks NAME`."""

from benchmarks.app import main

if __name__ == "__main__":
    main()
